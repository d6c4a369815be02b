// The WebSocket of a story: sends controls and resolves their answers, receives messages and chunks, reconnects.

import { urlOf } from "./api.js";

const FIRST_WAIT_MS = 400;
const LONGEST_WAIT_MS = 8000;
const FORBIDDEN = 4401;
const GONE_FOR_GOOD = new Map([
  [4404, "this story is not there any more"],
  [FORBIDDEN, "this page may not come in: open the address that the server printed, with ?token=... where it has one"],
]);

export class StorySocket {
  /** `handlers` has `message(message)`, `picture(media, bytes)`, `open()`, `lost(why)`, `gone(why)`. */
  constructor(storyId, handlers) {
    this.url = urlOf(`api/stories/${storyId}/live`).replace(/^http/, "ws");
    this.handlers = handlers;
    this.waiting = new Map();
    this.number = 0;
    this.waitMs = FIRST_WAIT_MS;
    this.isClosed = false;
    this.connect();
  }

  connect() {
    this.media = null;
    this.refusal = null;
    const socket = new WebSocket(this.url);
    this.socket = socket;
    socket.binaryType = "arraybuffer";
    socket.onmessage = ({ data }) => (typeof data === "string" ? this.read(JSON.parse(data)) : this.take(data));
    socket.onclose = ({ code, reason }) => this.dropped(code, reason);
  }

  read(message) {
    if (message.type === "media") this.media = message;
    else if (message.type === "done") this.settle(message.reply_to)?.resolve(message.effect);
    else if (message.type === "error") {
      const control = this.settle(message.reply_to);
      if (control) control.reject(new Error(message.message));
      else this.refusal = message.message;
    } else {
      if (message.type === "hello") {
        this.waitMs = FIRST_WAIT_MS;
        this.handlers.open();
      }
      this.handlers.message(message);
    }
  }

  take(bytes) {
    this.handlers.picture(this.media, bytes);
    this.media = null;
  }

  settle(id) {
    const control = this.waiting.get(id);
    this.waiting.delete(id);
    return control;
  }

  dropped(code, reason) {
    for (const control of this.waiting.values()) control.reject(new Error("the connection was lost; try again"));
    this.waiting.clear();
    if (this.isClosed) return;
    if (GONE_FOR_GOOD.has(code)) {
      this.isClosed = true;
      const why = GONE_FOR_GOOD.get(code);
      this.handlers.gone(code === FORBIDDEN && reason ? `${why} (${reason})` : why);
      return;
    }
    this.handlers.lost(this.refusal ?? "the connection was lost; trying again");
    this.timer = setTimeout(() => this.connect(), this.waitMs * (0.75 + Math.random() / 2));
    this.waitMs = Math.min(LONGEST_WAIT_MS, this.waitMs * 2);
  }

  /** Sends a control; resolves to its effect, or rejects with the server's error. */
  call(type, fields = {}) {
    if (this.socket.readyState !== WebSocket.OPEN) return Promise.reject(new Error("not connected; trying again"));
    const id = String(++this.number);
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve, reject });
      this.socket.send(JSON.stringify({ type, id, ...fields }));
    });
  }

  /** Sends a report, which has no answer. */
  report(type, fields) {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify({ type, ...fields }));
  }

  close() {
    this.isClosed = true;
    clearTimeout(this.timer);
    this.socket.close();
  }
}
