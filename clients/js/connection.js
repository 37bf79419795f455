// One session with a server, over as many sockets as it takes.

import { decode, encode } from "@msgpack/msgpack";
import { Dealer } from "zeromq";

const VERSION = 1;
const TERMINAL = new Set(["ok", "done", "error"]);
const PINGS_PER_SILENCE = 3;
const MAX_UNSENT = 1024;

/** What a server answered a request with: `code`, `message`, and what else it told. */
export class ServerError extends Error {
  constructor(reply) {
    super(`${reply.code}: ${reply.message}${reply.where ? ` (at ${reply.where})` : ""}`);
    this.name = "ServerError";
    this.code = reply.code;
    this.where = reply.where;
    this.expected = reply.expected;
    this.retryAfterMs = reply.retry_after_ms;
    this.reply = reply;
  }
}

/**
 * Sends requests and hands replies to those who wait for them. A connection that is lost is
 * replaced and its session resumed: requests without a reply are sent again under their ids, so
 * that each is carried out once. Before there is a server, requests wait.
 */
export class Connection {
  #options;
  #socket = null;
  #timer;
  #nextId = 1;
  #open = new Map(); // id -> {frame, onReply}, in the order in which they were made
  #helloId = null; // until it is answered
  #control = []; // what goes out before all else: hello, pings
  #again = []; // frames that were sent before
  #unsent = []; // frames that were not
  #wake = () => {};
  #session;
  #maxFrameBytes = Infinity;
  #spokeMs = 0;
  #owedSinceMs = null;

  /** What `hello` told; null while there is no connection. */
  server = null;

  constructor(options) {
    this.#options = options;
    this.#connect();
    this.#timer = setInterval(() => this.#keepAlive(), options.silenceMs / (2 * PINGS_PER_SILENCE));
  }

  newId() {
    return this.#nextId++;
  }

  /**
   * Send one message that asks for replies to several ids. `onReply(reply)` is called for each
   * reply to an id, the last of which has `ev` `ok`, `done` or `error`.
   */
  send(fields, waiting) {
    if (this.#socket === null) throw new Error("the client is closed");
    const frame = pack(fields);
    if (frame.length > this.#maxFrameBytes) {
      throw new RangeError(
        `the request has ${frame.length} bytes, the server takes ${this.#maxFrameBytes}`,
      );
    }
    if (this.#unsent.length >= MAX_UNSENT) throw new RangeError("no connection to the server");
    if (this.#hasSlept(performance.now())) this.#connect();
    for (const [id, onReply] of waiting) this.#open.set(id, { frame, onReply });
    this.#unsent.push(frame);
    this.#wake();
  }

  close() {
    clearInterval(this.#timer);
    this.#socket?.close();
    this.#socket = null;
    this.#wake();
    this.#fail([...this.#open.keys()], "unavailable", "the client was closed");
  }

  #connect() {
    this.#socket?.close();
    this.server = null;
    const { endpoint, name, keys } = this.#options;
    const socket = new Dealer({
      linger: 0,
      // Without a server, requests wait here, not in a queue that dies with the socket.
      immediate: true,
      // A connection that came back by itself would be a new session to the server.
      reconnectInterval: -1,
      ipv6: true,
      ...(keys && {
        curveServerKey: keys.server,
        curvePublicKey: keys.public,
        curveSecretKey: keys.secret,
      }),
    });
    socket.connect(endpoint);
    this.#socket = socket;
    const id = this.newId();
    const hello = { id, op: "hello", protocol: VERSION, client: name, session: this.#session };
    this.#helloId = id;
    this.#control = [pack(hello)];
    this.#spokeMs = this.#owedSinceMs = performance.now();
    this.#wake();
    this.#read(socket);
    this.#write(socket);
  }

  #keepAlive() {
    const nowMs = performance.now();
    const { silenceMs } = this.#options;
    const isLost = this.#owedSinceMs !== null && nowMs - this.#owedSinceMs > silenceMs;
    if (isLost || this.#hasSlept(nowMs)) {
      this.#connect();
    } else if (this.server !== null && nowMs - this.#spokeMs > silenceMs / PINGS_PER_SILENCE) {
      // Nobody waits for the reply; that it comes is enough.
      if (this.#control.length === 0) this.#control.push(pack({ id: this.newId(), op: "ping" }));
      this.#owedSinceMs ??= nowMs;
      this.#wake();
    }
  }

  /**
   * Whether this program was silent for so long that the server may have forgotten the session. On
   * the same connection that would not show: it would be a new session.
   */
  #hasSlept(nowMs) {
    return this.server !== null && nowMs - this.#spokeMs > this.server.expiry_ms / 2;
  }

  async #read(socket) {
    try {
      for await (const [frame] of socket) {
        if (socket !== this.#socket) return;
        this.#owedSinceMs = null;
        this.#take(frame);
      }
    } catch (error) {
      // A socket that was replaced or closed ends its reader with an error.
      if (socket === this.#socket) this.#options.onError(error);
    }
  }

  /** Sends what waits, one frame after another: a socket takes no second one before. */
  async #write(socket) {
    while (socket === this.#socket) {
      const queue = this.#nextQueue();
      if (queue === null) {
        await new Promise((resolve) => (this.#wake = resolve));
        continue;
      }
      const frame = queue[0];
      this.#owedSinceMs ??= performance.now();
      try {
        await socket.send(frame);
      } catch (error) {
        // What waits is sent by the next connection.
        if (socket === this.#socket) this.#options.onError(error);
        return;
      }
      // A socket that was replaced meanwhile may have taken the frame to its grave: it stays in its
      // place for the next connection, ahead of what came later, and is carried out once in any case.
      if (socket !== this.#socket) return;
      this.#spokeMs = performance.now();
      if (queue[0] === frame) queue.shift();
    }
  }

  #nextQueue() {
    if (this.#control.length > 0) return this.#control;
    if (this.server === null) return null;
    if (this.#again.length > 0) return this.#again;
    return this.#unsent.length > 0 ? this.#unsent : null;
  }

  #take(frame) {
    let reply;
    try {
      reply = decode(frame);
    } catch (error) {
      this.#options.onError(error);
      return;
    }
    if (reply.id == null) this.#options.onError(new ServerError(reply));
    else if (reply.id === this.#helloId) this.#welcome(reply);
    else this.#answer(reply);
  }

  #answer(reply) {
    const request = this.#open.get(reply.id);
    if (request === undefined) return;
    if (TERMINAL.has(reply.ev)) this.#open.delete(reply.id);
    request.onReply(reply);
  }

  /** The session is there. What it owes is sent again, or given up if it is a new one. */
  #welcome(reply) {
    this.#helloId = null;
    if (reply.ev === "error") {
      // Tried again in a while, as a new client.
      this.#session = undefined;
      this.#owedSinceMs = performance.now();
      this.#options.onError(new ServerError(reply));
      return;
    }
    this.#session = reply.session;
    this.#maxFrameBytes = reply.limits.max_frame_bytes;
    this.server = reply;
    this.#refuseTooLarge();
    const unsent = new Set(this.#unsent);
    const owed = [...this.#open].filter(([, request]) => !unsent.has(request.frame));
    this.#again = [];
    if (reply.resumed) {
      this.#again = [...new Set(owed.map(([, request]) => request.frame))];
    } else {
      const ids = owed.map(([id]) => id);
      this.#fail(ids, "unavailable", "the server lost the session; the request may have been carried out");
    }
    this.#wake();
  }

  /** End what waited for a connection and would close it: only now is the limit known. */
  #refuseTooLarge() {
    const isTooLarge = (frame) => frame.length > this.#maxFrameBytes;
    this.#unsent = this.#unsent.filter((frame) => !isTooLarge(frame));
    const large = [...this.#open].filter(([, request]) => isTooLarge(request.frame));
    const message = `the request is larger than the ${this.#maxFrameBytes} bytes that the server takes`;
    this.#fail(
      large.map(([id]) => id),
      "too_large",
      message,
    );
  }

  #fail(ids, code, message) {
    for (const id of ids) this.#answer({ id, ev: "error", code, message });
  }
}

function pack(fields) {
  return encode({ v: VERSION, ...fields }, { ignoreUndefined: true });
}
