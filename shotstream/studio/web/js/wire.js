// One story's WebSocket: controls out, answered in order; messages and pictures in. It reconnects by itself.

import { urlOf } from "./api.js";

const FIRST_WAIT_MS = 400;
const LONGEST_WAIT_MS = 8000;
const FORBIDDEN = 4401;
const GONE_FOR_GOOD = new Map([
  [4404, "this story is not there any more"],
  [FORBIDDEN, "this page may not come in: open the address that the server printed, with ?token=... where it has one"],
]);

export class Wire {
  /** `told` has `message(message)`, `picture(media, bytes)`, `open()`, `lost(why)`, `gone(why)`. */
  constructor(storyId, told) {
    this.url = urlOf(`api/stories/${storyId}/live`).replace(/^http/, "ws");
    this.told = told;
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
        this.told.open();
      }
      this.told.message(message);
    }
  }

  take(bytes) {
    this.told.picture(this.media, bytes);
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
      this.told.gone(code === FORBIDDEN && reason ? `${why} (${reason})` : why);
      return;
    }
    this.told.lost(this.refusal ?? "the connection was lost; trying again");
    this.timer = setTimeout(() => this.connect(), this.waitMs * (0.75 + Math.random() / 2));
    this.waitMs = Math.min(LONGEST_WAIT_MS, this.waitMs * 2);
  }

  /** Sends a control; its effect, or an Error that says why not. */
  ask(type, fields = {}) {
    if (this.socket.readyState !== WebSocket.OPEN) return Promise.reject(new Error("not connected; trying again"));
    const id = String(++this.number);
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve, reject });
      this.socket.send(JSON.stringify({ type, id, ...fields }));
    });
  }

  /** Sends what is not answered. */
  report(type, fields) {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify({ type, ...fields }));
  }

  close() {
    this.isClosed = true;
    clearTimeout(this.timer);
    this.socket.close();
  }
}
