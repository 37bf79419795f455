// A client for game-agent servers. Operations and fields are those of docs/protocol.md.

import { Connection, ServerError } from "./connection.js";

export { ServerError };

/**
 * A request under way: await `result`, or iterate over the pieces of an answer.
 *
 *     for await (const text of client.ask("mira", "Who are you?")) subtitle += text;
 */
export class Pending {
  #pieces = [];
  #isOver = false;
  #wake = () => {};

  constructor(client, id) {
    this.id = id;
    this.client = client;
    /** Resolves with the last reply; rejects with a ServerError. */
    this.result = new Promise((resolve, reject) => {
      this.take = (reply) => {
        if (reply.ev === "error") reject(new ServerError(reply));
        else if (reply.ev === "ok" || reply.ev === "done") resolve(reply);
        else this.#pieces.push(reply.text);
        this.#isOver = ["ok", "done", "error"].includes(reply.ev);
        this.#wake();
      };
    });
    // Who only iterates learns of the error there; it must not end the program here.
    this.result.catch(() => {});
  }

  async *[Symbol.asyncIterator]() {
    while (true) {
      if (this.#pieces.length > 0) yield this.#pieces.shift();
      else if (this.#isOver) break;
      else await new Promise((resolve) => (this.#wake = resolve));
    }
    await this.result;
  }

  /** End an answer early, with the text it has; false if it had ended. */
  async cancel() {
    return (await this.client.request("cancel", { target: this.id })).found;
  }
}

export class Client {
  #connection;

  /**
   * @param {object} [options]
   * @param {string} [options.endpoint] where the server listens
   * @param {string} [options.name] what the server should call this client
   * @param {number} [options.silenceMs] a connection on which nothing came for so long, though
   *   something should have, is lost
   * @param {{server: string, public: string, secret: string}} [options.keys] for a server that asks
   *   for keys, all Z85
   * @param {(error: Error) => void} [options.onError] told what belongs to no request, such as that
   *   the server refuses the client, which tries again all the same
   */
  constructor({
    endpoint = "tcp://127.0.0.1:5761",
    name,
    silenceMs = 3000,
    keys,
    onError = console.error,
  } = {}) {
    this.#connection = new Connection({ endpoint, name, silenceMs, keys, onError });
  }

  /** What the server told of itself (version, model, limits); null while there is no connection. */
  get server() {
    return this.#connection.server;
  }

  /** Requests without a reply fail. */
  close() {
    this.#connection.close();
  }

  /** Start any operation. Throws RangeError if it is too large, or too many wait already. */
  start(op, fields = {}) {
    const pending = new Pending(this, this.#connection.newId());
    this.#connection.send({ id: pending.id, op, ...fields }, [[pending.id, pending.take]]);
    return pending;
  }

  /** Carry out any operation; resolves with its last reply, rejects with a ServerError. */
  async request(op, fields) {
    return this.start(op, fields).result;
  }

  /** Say something to an agent. `by`: "token" or "sentence"; `options`: those of an ask. */
  ask(agent, event, { by = "token", ...options } = {}) {
    const stream = by === "sentence" ? "sentence" : true;
    return this.start("ask", { agent, event, stream, ...options });
  }

  /**
   * Change a world and ask agents about it, in one message.
   * `fields`: those of a tick; `asks`: maps of `agent`, `event` and options of an ask.
   */
  tick(fields, asks = []) {
    const connection = this.#connection;
    const change = new Pending(this, connection.newId());
    const answers = asks.map(() => new Pending(this, connection.newId()));
    const numbered = asks.map((ask, index) => ({ ...ask, id: answers[index].id }));
    const message = { id: change.id, op: "tick", ...fields, asks: numbered };
    connection.send(
      message,
      [change, ...answers].map((pending) => [pending.id, pending.take]),
    );
    return { change, asks: answers };
  }
}
