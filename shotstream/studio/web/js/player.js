// Plays the film with Media Source Extensions: keeps the browser's buffer equal to the film's layout.
//
// The layout has the position of each take. What no longer matches it is removed from the buffer; what is missing
// near the playhead is appended, from the chunks of the WebSocket or else from the take's recording.

import { lengthOf, segmentAt } from "./film.js";

const BEHIND_S = 60;
const AHEAD_S = 120;
const KEPT_BYTES = 96 * 2 ** 20;
const STALL_MS = 120;

export class Player {
  /**
   * `fetchTake(takeId)` gives a recording's bytes; `handlers` has `frame(frame, isShown)`, `change()`, `stalled()` and
   * `failed(error)`.
   */
  constructor(model, fetchTake, handlers) {
    this.model = model;
    this.fetchTake = fetchTake;
    this.handlers = handlers;
    this.segments = [];
    this.placed = []; // {takeId, start, numChunks}: what the buffer holds
    this.pictures = new Map(); // takeId: {chunks: [bytes], whole: bytes}
    this.fetching = new Set();
    this.frame = 0;
    this.wantsToPlay = true;
    this.jump = null; // {frame, shown, avoid, holds, isUnderWay}: where to go as soon as it can be shown
    this.video = this.makeVideo();
    this.source = new (window.ManagedMediaSource ?? MediaSource)();
    this.url = URL.createObjectURL(this.source);
    this.video.src = this.url;
    this.source.addEventListener("sourceopen", () => this.open(), { once: true });
  }

  makeVideo() {
    const video = document.createElement("video");
    Object.assign(video, { muted: true, playsInline: true, disableRemotePlayback: true, disablePictureInPicture: true });
    video.className = "picture";
    video.setAttribute("aria-label", "The film");
    video.addEventListener("waiting", () => this.mindStall());
    video.addEventListener("seeked", () => {
      const { jump } = this;
      // A picture that is on the screen already is not always told again.
      setTimeout(() => jump && jump === this.jump && this.shown(jump.frame), 200);
    });
    video.addEventListener("error", () => this.handlers.failed(new Error("the browser cannot show these pictures")));
    const shown = (_, { mediaTime }) => {
      this.shown(Math.round(mediaTime * this.model.fps));
      video.requestVideoFrameCallback(shown);
    };
    video.requestVideoFrameCallback(shown);
    return video;
  }

  open() {
    if (!window.MediaSource?.isTypeSupported(this.model.mime) && !window.ManagedMediaSource) {
      this.handlers.failed(new Error("this browser does not play H.264 from a stream"));
      return;
    }
    this.buffer = this.source.addSourceBuffer(this.model.mime);
    this.buffer.addEventListener("updateend", () => this.work());
    this.work();
  }

  /** The number of chunks of a take received without a gap. */
  numReceived(takeId) {
    return this.pictures.get(takeId)?.chunks.length ?? 0;
  }

  /** Stores a chunk from the WebSocket. */
  receive(media, bytes) {
    const kept = this.pictures.get(media.take_id) ?? { chunks: [], whole: null };
    this.pictures.delete(media.take_id);
    this.pictures.set(media.take_id, kept); // Last: the one that is forgotten last.
    if (media.chunk_index <= kept.chunks.length) kept.chunks[media.chunk_index] = bytes;
    this.forget();
  }

  /** Sets a new layout. `same` maps a take to the take whose beginning it holds: {new: old}. */
  show(segments, same = new Map()) {
    for (const [takeId, oldId] of same) {
      const old = this.pictures.get(oldId);
      if (old && !old.whole) this.pictures.set(takeId, old);
      for (const piece of this.placed) if (piece.takeId === oldId) piece.takeId = takeId;
    }
    const before = segmentAt(this.segments, this.frame);
    this.segments = segments;
    if (before && !this.jump) this.follow(same, before);
    this.work();
    this.handlers.change();
  }

  /** Keeps the playhead at the same frame if its take has moved, and within the film if it is gone. */
  follow(same, before) {
    const now = this.segments.find((s) => s.takeId === before.takeId || same.get(s.takeId) === before.takeId);
    if (now && now.start === before.start && this.frame < now.start + now.length) return;
    const frame = now ? now.start + this.frame - before.start : this.frame;
    if (now?.start !== before.start || this.frame >= this.numFrames) this.seek(frame);
  }

  get numFrames() {
    return lengthOf(this.segments);
  }

  /** Whether the end of the film is shown and nothing is being generated. */
  get isAtEnd() {
    const last = this.segments.at(-1);
    return !last || (!last.isMaking && this.frame >= this.numFrames - 1);
  }

  get isPlaying() {
    return this.wantsToPlay && !this.isAtEnd;
  }

  /** The frame on the screen, as a frame of a take. */
  get place() {
    const segment = segmentAt(this.segments, this.frame);
    if (!segment || segment.numFrames === 0) return null;
    const frameIndex = Math.min(this.frame - segment.start, segment.numFrames - 1);
    return { take_id: segment.takeId, frame_index: frameIndex };
  }

  play() {
    this.wantsToPlay = true;
    if (this.isAtEnd && this.numFrames) this.seek(0);
    this.drive();
    this.handlers.change();
  }

  pause() {
    this.wantsToPlay = false;
    this.video.pause();
    this.handlers.change();
  }

  /** Seeks to a film frame, or the nearest one that exists. */
  seek(frame) {
    const last = this.numFrames - 1;
    let target = Math.max(0, Math.min(frame, last));
    const segment = segmentAt(this.segments, target);
    if (segment) target = Math.min(target, segment.start + Math.max(0, segment.numFrames - 1));
    this.frame = target;
    this.jump = { frame: target, holds: true };
    this.work();
    this.handlers.frame(target, false);
    this.handlers.change();
  }

  /**
   * Seeks to a frame as soon as it can be shown, and plays; `shown()` is called when it is on the screen.
   * `avoid` is a take that may still be at that position, and is about to be replaced.
   */
  goOnAt(frame, { shown, avoid } = {}) {
    this.wantsToPlay = true;
    this.jump = { frame, shown, avoid };
    this.work();
    this.handlers.change();
  }

  close() {
    this.isClosed = true;
    this.video.removeAttribute("src");
    this.video.load();
    URL.revokeObjectURL(this.url);
  }

  // The buffer.

  /** Starts the next change of the buffer; called again when that has finished. */
  work() {
    if (this.isClosed) return;
    this.land();
    if (!this.buffer || this.buffer.updating || this.source.readyState !== "open") return;
    if (!this.remove()) this.append();
    this.drive();
  }

  remove() {
    const { fps } = this.model;
    for (const [index, piece] of this.placed.entries()) {
      const segment = this.segments.find((s) => s.takeId === piece.takeId && s.start === piece.start);
      const keep = segment && this.isNear(segment) ? Math.min(piece.numChunks, segment.numChunks) : 0;
      if (keep === piece.numChunks) continue;
      const from = piece.start + this.frames(keep);
      const to = piece.start + this.frames(piece.numChunks);
      if (keep) piece.numChunks = keep;
      else this.placed.splice(index, 1);
      // Half a frame earlier: a frame goes when its time lies in the range, and times are rounded.
      this.buffer.remove(Math.max(0, (from - 0.5) / fps), (to - 0.5) / fps);
      return true;
    }
    return false;
  }

  append() {
    const near = this.segments.filter((segment) => this.isNear(segment));
    const target = this.jump?.frame ?? this.frame;
    const ahead = near.filter((segment) => segment.start + segment.length > target);
    for (const segment of [...ahead, ...near]) {
      const piece = this.placed.find((p) => p.takeId === segment.takeId && p.start === segment.start);
      const numPlaced = piece?.numChunks ?? 0;
      if (numPlaced >= segment.numChunks) continue;
      const kept = this.pictures.get(segment.takeId);
      const chunk = kept?.whole ? null : kept?.chunks[numPlaced];
      if (!kept?.whole && !chunk) {
        if (!segment.isMaking) this.fetch(segment.takeId);
        continue;
      }
      try {
        this.buffer.timestampOffset = segment.start / this.model.fps;
        this.buffer.appendBuffer(chunk ?? kept.whole);
      } catch (error) {
        if (error.name !== "QuotaExceededError") throw error;
        return; // The browser drops what lies behind; what is missing is appended when more is wanted.
      }
      const numChunks = chunk ? numPlaced + 1 : segment.numChunks;
      if (piece) piece.numChunks = numChunks;
      else this.placed.push({ takeId: segment.takeId, start: segment.start, numChunks });
      return;
    }
  }

  async fetch(takeId) {
    if (this.fetching.has(takeId)) return;
    this.fetching.add(takeId);
    try {
      this.pictures.set(takeId, { chunks: [], whole: await this.fetchTake(takeId) });
      this.forget();
      this.work();
    } catch (error) {
      this.handlers.failed(error);
    } finally {
      this.fetching.delete(takeId);
    }
  }

  /** Drops takes until the cache is small enough; they can be fetched again. */
  forget() {
    const size = ({ chunks, whole }) => chunks.reduce((sum, chunk) => sum + chunk.byteLength, whole?.byteLength ?? 0);
    let total = [...this.pictures.values()].reduce((sum, kept) => sum + size(kept), 0);
    for (const [takeId, kept] of this.pictures) {
      if (total <= KEPT_BYTES) return;
      if (this.segments.some((s) => s.takeId === takeId && (s.isMaking || this.isNear(s)))) continue;
      total -= size(kept);
      this.pictures.delete(takeId);
    }
  }

  isNear(segment) {
    const { fps } = this.model;
    const at = this.jump?.frame ?? this.frame;
    return segment.start < at + AHEAD_S * fps && segment.start + segment.length > at - BEHIND_S * fps;
  }

  frames(numChunks) {
    return numChunks ? this.model.first_chunk_frames + (numChunks - 1) * this.model.chunk_frames : 0;
  }

  // The playhead.

  /** Plays or pauses the video element. */
  drive() {
    if (this.wantsToPlay && this.video.paused && this.placed.length) {
      // Refused only when the element goes away meanwhile; it is muted.
      this.video.play().catch(() => {});
    }
  }

  /** Carries out a pending jump once its frame is in the buffer. */
  land() {
    const { jump, buffer } = this;
    if (!jump || jump.isUnderWay || !buffer || buffer.updating) return;
    const segment = segmentAt(this.segments, jump.frame);
    if (!segment || segment.takeId === jump.avoid) return;
    const piece = this.placed.find((p) => p.takeId === segment.takeId && p.start === segment.start);
    if (!piece || jump.frame >= piece.start + this.frames(piece.numChunks)) return;
    jump.isUnderWay = true;
    this.jumpedAt = performance.now();
    // A quarter into the frame: times are rounded.
    this.video.currentTime = (jump.frame + 0.25) / this.model.fps;
  }

  shown(frame) {
    const { jump } = this;
    // Until a frame that was asked for is on the screen, the old picture still moves.
    if (jump && jump.holds && !jump.isUnderWay) return;
    if (jump?.isUnderWay) {
      // Late pictures from before the jump; a busy browser may leave out the first ones after it.
      if (frame < jump.frame || (this.video.seeking && frame > jump.frame + 2)) return;
      this.jump = null;
      jump.shown?.();
    }
    if (this.numFrames && frame >= this.numFrames) {
      // The film became shorter under a decoder that had read on; a jump that is waiting will mend it.
      if (!this.jump) this.seek(this.numFrames - 1);
      return;
    }
    const before = segmentAt(this.segments, this.frame);
    const wasAtEnd = this.isAtEnd;
    this.frame = frame;
    this.handlers.frame(frame, true);
    if (before !== segmentAt(this.segments, frame) || wasAtEnd !== this.isAtEnd) {
      this.handlers.change();
      this.work();
    }
  }

  /** Counts a stall: the picture stands still though it should play. */
  mindStall() {
    clearTimeout(this.stallTimer);
    const isFresh = performance.now() - (this.jumpedAt ?? 0) < 1000;
    if (!this.isPlaying || this.jump || isFresh || this.frame === 0) return;
    const { currentTime } = this.video;
    this.stallTimer = setTimeout(() => {
      if (this.isPlaying && !this.jump && this.video.currentTime === currentTime) this.handlers.stalled();
    }, STALL_MS);
  }
}
