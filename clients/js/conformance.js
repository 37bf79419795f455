// The runner of the JavaScript client; tests/conformance/README.md says what it does.

import { decode, encode } from "@msgpack/msgpack";

import { Client } from "./client.js";

const [endpoint, serverKey, publicKey, secretKey] = process.argv.slice(2);
const keys = serverKey && { server: serverKey, public: publicKey, secret: secretKey };
const client = new Client({ endpoint, name: "conformance", silenceMs: 500, keys });

function say(event) {
  const data = encode(event);
  const head = Buffer.alloc(4);
  head.writeUInt32BE(data.length);
  process.stdout.write(Buffer.concat([head, data]));
}

async function follow(name, pending) {
  say({ name, id: pending.id });
  const pieces = [];
  let reply;
  try {
    for await (const text of pending) pieces.push(text);
    reply = await pending.result;
  } catch (error) {
    reply = error.reply;
  }
  say({ name, reply, pieces });
}

function obey(command) {
  if ("request" in command) {
    follow(command.request, client.start(command.op, command.fields));
    return;
  }
  const { change, asks } = client.tick(
    command.fields,
    command.asks.map((ask) => ask.fields),
  );
  follow(command.tick, change);
  asks.forEach((ask, index) => follow(command.asks[index].name, ask));
}

let read = Buffer.alloc(0);
for await (const chunk of process.stdin) {
  read = Buffer.concat([read, chunk]);
  while (read.length >= 4 && read.length >= 4 + read.readUInt32BE()) {
    const end = 4 + read.readUInt32BE();
    obey(decode(read.subarray(4, end)));
    read = read.subarray(end);
  }
}
client.close();
