// An open story: what the server says of it, what the person asks for, and the player that shows it.

import { fetchBytes } from "./api.js";
import { layOut, segmentAt } from "./film.js";
import { Player } from "./player.js";
import { Wire } from "./wire.js";

const REPORT_MS = 250;

export class Director {
  /** `told` has `redraw()`, `frame()`, `say(text, kind)` and `gone(why)`. */
  constructor(storyId, model, told) {
    this.storyId = storyId;
    this.model = model;
    this.told = told;
    this.story = null;
    this.telemetry = null;
    this.isConnected = false;
    this.chosenShotId = null; // What the person looks at; null: what is playing.
    this.numStalls = 0;
    this.cutS = null; // From the press to the first picture of the new shot, of the latest cut.
    this.pictureS = null; // From opening the story to its first picture.
    this.cutFrom = null;
    this.draft = { caption: "", advice: null };
    this.askedAt = performance.now();
    this.player = new Player(
      model,
      (takeId) => fetchBytes(`api/stories/${storyId}/takes/${takeId}/media.mp4`),
      {
        frame: (_, isShown) => {
          if (isShown) this.pictureS ??= (performance.now() - this.askedAt) / 1000;
          this.told.frame();
        },
        change: () => this.told.redraw(),
        stalled: () => this.numStalls++,
        failed: (error) => this.told.say(error.message, "error"),
      },
    );
    this.wire = new Wire(storyId, {
      open: () => this.connected(true),
      lost: (why) => this.connected(false, why),
      gone: (why) => this.told.gone(why),
      message: (message) => this.read(message),
      picture: (media, bytes) => this.receive(media, bytes),
    });
    this.timer = setInterval(() => this.report(), REPORT_MS);
  }

  close() {
    this.remember();
    clearInterval(this.timer);
    this.wire.close();
    this.player.close();
  }

  // From the server.

  connected(isConnected, why) {
    const wasLost = !this.isConnected && this.story;
    this.isConnected = isConnected;
    if (!isConnected) this.told.say(why, "lost");
    else if (wasLost) this.told.say("connected again");
    this.told.redraw();
  }

  read(message) {
    if (message.type === "story") this.show(message.story);
    else if (message.type === "telemetry") this.telemetry = message;
    else if (message.type === "notice") this.told.say(message.message, "notice");
    else if (message.type === "take_started") {
      if (this.story) this.story.making = message.making;
      this.lay();
    } else if (message.type === "take_ended") {
      if (message.outcome === "failed" || message.outcome === "discarded") this.player.jump = null;
      if (message.outcome === "failed") this.told.say("a shot could not be made; its card says why", "error");
    }
    this.told.redraw();
  }

  receive(media, bytes) {
    this.player.receive(media, bytes);
    this.lay();
  }

  show(story) {
    const isFirst = this.story === null;
    const same = this.cutFrom ? shortened(this.story, story, this.cutFrom) : new Map();
    this.story = story;
    this.lay(same);
    if (isFirst) this.comeBack();
    if (this.chosenShotId && !story.shots.some((shot) => shot.shot_id === this.chosenShotId)) {
      this.chosenShotId = null;
    }
  }

  lay(same) {
    if (!this.story) return;
    this.player.show(layOut(this.story, this.model, (takeId) => this.player.numReceived(takeId)), same);
  }

  // Where the viewer is.

  get playingSegment() {
    return segmentAt(this.player.segments, this.player.frame);
  }

  get shot() {
    const { shots } = this.story;
    const id = this.chosenShotId ?? this.playingSegment?.shotId;
    return shots.find((shot) => shot.shot_id === id) ?? shots[0] ?? null;
  }

  report() {
    const { place, isPlaying } = this.player;
    const now = JSON.stringify([place, isPlaying, this.numStalls]);
    if (!isPlaying && now === this.reported && ++this.numQuiet % 20) return;
    this.numQuiet = 0;
    this.reported = now;
    this.wire.report("playhead", { at: place, playing: isPlaying, stalls: this.numStalls });
    this.remember();
  }

  remember() {
    const { frame, wantsToPlay } = this.player;
    if (this.story) sessionStorage.setItem(this.storyId, JSON.stringify({ frame, wantsToPlay }));
  }

  comeBack() {
    const kept = JSON.parse(sessionStorage.getItem(this.storyId) ?? "null");
    if (!kept) return;
    this.player.wantsToPlay = kept.wantsToPlay;
    if (this.player.numFrames) this.player.seek(kept.frame);
  }

  // What a person may do. Each says in one line why not.

  async ask(type, fields, after) {
    try {
      const effect = await this.wire.ask(type, fields);
      after?.(effect);
      return effect;
    } catch (error) {
      this.told.say(error.message, "error");
      return null;
    }
  }

  get nextShot() {
    const at = this.playingSegment?.shotIndex ?? this.story.shots.length - 1;
    return this.story.shots[at + 1] ?? null;
  }

  /** Ends the shot that plays, and goes on with a new one or the next; false: there is none. */
  async cut(caption) {
    if (!caption && !this.nextShot) {
      this.told.say("say what comes next, then cut to it");
      return false;
    }
    const began = performance.now();
    const playing = this.player.place;
    this.cutFrom = playing?.take_id ?? null;
    this.chosenShotId = null;
    const shot = caption ? { caption } : null;
    const effect = await this.ask("cut", { playing, shot });
    this.cutFrom = null;
    if (!effect?.shot_id) return effect !== null;
    this.player.goOnAt(effect.film_frame, {
      shown: () => {
        this.cutS = (performance.now() - began) / 1000;
        this.wire.report("cut_shown", { cut_s: this.cutS });
        this.told.redraw();
      },
    });
    return true;
  }

  addShot(caption) {
    return this.ask("add_shot", { shot: { caption } }, ({ shot_id: shotId }) => {
      // What waits to be asked for is shown with the button that asks.
      if (!this.story.autoplay) this.chosenShotId = shotId;
    });
  }

  retake(shotId) {
    const avoid = this.story.shots.find((shot) => shot.shot_id === shotId)?.take_id;
    return this.ask("retake", { shot_id: shotId }, ({ film_frame: at }) => this.player.goOnAt(at, { avoid }));
  }

  make(shotId) {
    const avoid = this.story.shots.find((shot) => shot.shot_id === shotId)?.take_id;
    return this.ask("make_shot", { shot_id: shotId }, ({ film_frame: at }) => this.player.goOnAt(at, { avoid }));
  }

  remakeStale() {
    const avoid = this.story.shots.find((shot) => shot.status === "stale")?.take_id;
    return this.ask("remake_stale", {}, ({ film_frame: at }) => this.player.goOnAt(at, { avoid }));
  }

  chooseTake(shotId, takeId) {
    return this.ask("choose_take", { shot_id: shotId, take_id: takeId }, (effect) => this.player.goOnAt(effect.film_frame));
  }

  /** Undo, redo, or another branch: to where the film differs now, if what was shown is gone. */
  travel(type, fields = {}) {
    this.chosenShotId = null;
    return this.ask(type, fields);
  }

  pinHere() {
    const { place } = this.player;
    if (place) return this.ask("pin", { frame: place });
    return this.told.say("nothing is on the screen yet that could be pinned");
  }

  step(numFrames) {
    this.player.pause();
    this.player.seek(this.player.frame + numFrames);
  }

  /** To the beginning of the shot so many further on. */
  stepShot(numShots) {
    const { segments, frame } = this.player;
    const at = segments.findIndex((segment) => segment === this.playingSegment);
    // Backwards first to the beginning of the shot that plays.
    const back = numShots < 0 && frame - (segments[at]?.start ?? 0) > this.model.fps / 2 ? 1 : 0;
    const segment = segments[Math.max(0, Math.min(segments.length - 1, at + numShots + back))];
    this.chosenShotId = null;
    if (segment) this.player.seek(segment.start);
  }
}

/** The take that a cut made of one that was finished already: {new: old}. */
function shortened(old, now, takeId) {
  const shot = old?.shots.find((candidate) => candidate.take_id === takeId);
  const after = shot && now.shots.find((candidate) => candidate.shot_id === shot.shot_id);
  const isCut = after && after.take_id !== takeId && after.takes.some((t) => t.take_id === after.take_id && t.was_cut);
  return new Map(isCut ? [[after.take_id, takeId]] : []);
}
