// The client of an open story: its state from the server, the user's controls, and the player.

import { fetchBytes } from "./api.js";
import { layOut, segmentAt } from "./film.js";
import { Player } from "./player.js";
import { StorySocket } from "./story_socket.js";

const REPORT_MS = 250;

export class StoryClient {
  /** `handlers` has `redraw()`, `frame()`, `say(text, kind)` and `gone(why)`. */
  constructor(storyId, model, handlers) {
    this.storyId = storyId;
    this.model = model;
    this.handlers = handlers;
    this.story = null;
    this.telemetry = null;
    this.isConnected = false;
    this.chosenShotId = null; // What the person looks at; null: what is playing.
    this.numStalls = 0;
    this.cutS = null; // From the press to the first picture of the new shot, of the latest cut.
    this.pictureS = null; // From opening the story to its first picture.
    this.cutFrom = null;
    this.draft = { caption: "", advice: null };
    this.citing = null; // The @name that is being written in the composer; see citations.js.
    this.turn = "recache"; // How a steered shot turns.
    this.newReference = null; // A picture that was uploaded, and is not yet in the cast.
    this.isUploading = false;
    this.askedAt = performance.now();
    this.player = new Player(
      model,
      (takeId) => fetchBytes(`api/stories/${storyId}/takes/${takeId}/media.mp4`),
      {
        frame: (_, isShown) => {
          if (isShown) this.pictureS ??= (performance.now() - this.askedAt) / 1000;
          this.handlers.frame();
        },
        change: () => this.handlers.redraw(),
        stalled: () => this.numStalls++,
        failed: (error) => this.handlers.say(error.message, "error"),
      },
    );
    this.storySocket = new StorySocket(storyId, {
      open: () => this.connected(true),
      lost: (why) => this.connected(false, why),
      gone: (why) => this.handlers.gone(why),
      message: (message) => this.read(message),
      picture: (media, bytes) => this.receive(media, bytes),
    });
    this.timer = setInterval(() => this.report(), REPORT_MS);
  }

  close() {
    this.remember();
    clearInterval(this.timer);
    this.storySocket.close();
    this.player.close();
  }

  // From the server.

  connected(isConnected, why) {
    const wasLost = !this.isConnected && this.story;
    this.isConnected = isConnected;
    if (!isConnected) this.handlers.say(why, "lost");
    else if (wasLost) this.handlers.say("connected again");
    this.handlers.redraw();
  }

  read(message) {
    if (message.type === "story") this.show(message.story);
    else if (message.type === "telemetry") this.telemetry = message;
    else if (message.type === "notice") this.handlers.say(message.message, "notice");
    else if (message.type === "take_started") {
      if (this.story) this.story.making = message.making;
      this.lay();
    } else if (message.type === "take_ended") {
      if (message.outcome === "failed" || message.outcome === "discarded") this.player.jump = null;
      if (message.outcome === "failed") this.handlers.say("a shot failed; its card says why", "error");
    }
    this.handlers.redraw();
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
    this.storySocket.report("playhead", { at: place, playing: isPlaying, stalls: this.numStalls });
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

  async call(type, fields, after) {
    try {
      const effect = await this.storySocket.call(type, fields);
      after?.(effect);
      return effect;
    } catch (error) {
      this.handlers.say(error.message, "error");
      return null;
    }
  }

  get nextShot() {
    const at = this.playingSegment?.shotIndex ?? this.story.shots.length - 1;
    return this.story.shots[at + 1] ?? null;
  }

  /** Cuts to a new shot or the next one; false: there is none. */
  async cut(caption) {
    if (!caption && !this.nextShot) {
      this.handlers.say("write the next shot, then cut to it");
      return false;
    }
    const began = performance.now();
    const playing = this.player.place;
    this.cutFrom = playing?.take_id ?? null;
    this.chosenShotId = null;
    const shot = caption ? { caption } : null;
    const effect = await this.call("cut", { playing, shot });
    this.cutFrom = null;
    if (!effect?.shot_id) return effect !== null;
    this.player.goOnAt(effect.film_frame, {
      shown: () => {
        this.cutS = (performance.now() - began) / 1000;
        this.storySocket.report("cut_shown", { cut_s: this.cutS });
        this.handlers.redraw();
      },
    });
    return true;
  }

  addShot(caption) {
    return this.call("add_shot", { shot: { caption } }, ({ shot_id: shotId }) => {
      // What waits to be asked for is shown with the button that asks.
      if (!this.story.autoplay) this.chosenShotId = shotId;
    });
  }

  retake(shotId) {
    const avoid = this.story.shots.find((shot) => shot.shot_id === shotId)?.take_id;
    return this.call("retake", { shot_id: shotId }, ({ film_frame: at }) => this.player.goOnAt(at, { avoid }));
  }

  make(shotId) {
    const avoid = this.story.shots.find((shot) => shot.shot_id === shotId)?.take_id;
    return this.call("make_shot", { shot_id: shotId }, ({ film_frame: at }) => this.player.goOnAt(at, { avoid }));
  }

  remakeStale() {
    const avoid = this.story.shots.find((shot) => shot.status === "stale")?.take_id;
    return this.call("remake_stale", {}, ({ film_frame: at }) => this.player.goOnAt(at, { avoid }));
  }

  chooseTake(shotId, takeId) {
    return this.call("choose_take", { shot_id: shotId, take_id: takeId }, (effect) => this.player.goOnAt(effect.film_frame));
  }

  /** Undo, redo or switch of branch: seeks to the first difference if the shown frame is gone. */
  travel(type, fields = {}) {
    this.chosenShotId = null;
    return this.call(type, fields);
  }

  pinHere() {
    const { place } = this.player;
    if (place) return this.call("pin", { frame: place });
    return this.handlers.say("there is no frame to pin yet");
  }

  step(numFrames) {
    this.player.pause();
    this.player.seek(this.player.frame + numFrames);
  }

  /** Seeks to the start of the shot `numShots` shots further on. */
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

/** The take that a cut shortened: {new: old}. */
function shortened(old, now, takeId) {
  const shot = old?.shots.find((candidate) => candidate.take_id === takeId);
  const after = shot && now.shots.find((candidate) => candidate.shot_id === shot.shot_id);
  const isCut = after && after.take_id !== takeId && after.takes.some((t) => t.take_id === after.take_id && t.was_cut);
  return new Map(isCut ? [[after.take_id, takeId]] : []);
}
