// The vendor's JavaScript client as a program: `official.mjs PACKAGE HOST:PORT TOKEN MARKET`; talks as programs.py says.
import { createInterface } from "node:readline";

const [packageName, address, token, market] = process.argv.slice(2);
const { websocketClient } = await import(packageName);
const say = (line) => process.stdout.write(JSON.stringify(line) + "\n");
const topics = new Set();
const retryMs = 50;
let socket;
let authenticated = false;

const ask = (action, some) => {
  if (authenticated && some.length) socket.send(JSON.stringify({ action, params: some.join(",") }));
};

// The client authenticates as soon as it is connected. It does not connect again by itself, and keeps no topics.
const follow = () => {
  socket = websocketClient(token, `ws://${address}`)[market]();
  socket.onmessage = ({ data }) => {
    say({ frame: data });
    if (JSON.parse(data)[0].status === "auth_success") {
      authenticated = true;
      ask("subscribe", [...topics]);
    }
  };
  socket.onerror = () => {};
  socket.onclose = ({ code, reason }) => {
    authenticated = false;
    say({ closed: code, reason });
    if (code === 1008) {
      say({ failed: reason });
      process.exit();
    }
    setTimeout(follow, retryMs);
  };
};

createInterface({ input: process.stdin })
  .on("line", (line) => {
    for (const [action, some] of Object.entries(JSON.parse(line))) {
      some.forEach((topic) => (action === "subscribe" ? topics.add(topic) : topics.delete(topic)));
      ask(action, some);
    }
  })
  .on("close", () => process.exit());
follow();
