// Does what it is told with the unmodified SDK: `client.mjs URL OPTIONS`, then one command a line of standard
// input. Says what happens, one event a line of standard output. Commands and events are JSON:
//
//   {"id":1,"do":"orderUpdates","with":{"user":"0x…"}}  ->  {"done":1} or {"failed":1,"name":…,"message":…}
//                                                           {"event":"data","id":1,"data":…} from then on
//   {"id":2,"do":"unsubscribe","of":1}
//   the connection          ->  {"event":"open"}, {"event":"close"}
//   each message as it came ->  {"event":"message","message":…}

import { createInterface } from "node:readline";

import { SubscriptionClient, WebSocketTransport } from "@nktkas/hyperliquid";

const [url, options] = process.argv.slice(2);
const transport = new WebSocketTransport({ url, ...JSON.parse(options) });
const client = new SubscriptionClient({ transport });
const subscriptions = new Map();

const say = (event) => process.stdout.write(`${JSON.stringify(event)}\n`);

transport.socket.addEventListener("open", () => say({ event: "open" }));
transport.socket.addEventListener("close", () => say({ event: "close" }));
transport.socket.addEventListener("message", ({ data }) => say({ event: "message", message: JSON.parse(data) }));

const commands = {
  orderUpdates: async ({ id, with: params }) => {
    const listener = (data) => say({ event: "data", id, data });
    subscriptions.set(id, await client.orderUpdates(params, listener));
  },
  trades: async ({ id, with: params }) => {
    const listener = (data) => say({ event: "data", id, data });
    subscriptions.set(id, await client.trades(params, listener));
  },
  userFills: async ({ id, with: params }) => {
    const listener = ({ fills: data }) => say({ event: "data", id, data });
    subscriptions.set(id, await client.userFills(params, listener));
  },
  userEvents: async ({ id, with: params }) => {
    const listener = ({ fills: data }) => say({ event: "data", id, data });
    subscriptions.set(id, await client.userEvents(params, listener));
  },
  // What the SDK has no method for goes through its transport.
  subscribe: async ({ id, on, with: payload }) => {
    const listener = ({ detail: data }) => say({ event: "data", id, data });
    subscriptions.set(id, await transport.subscribe(on ?? payload.type, payload, listener));
  },
  unsubscribe: async ({ of }) => {
    await subscriptions.get(of).unsubscribe();
  },
  info: async ({ with: payload }) => {
    await transport.request("info", payload);
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line);
  try {
    await commands[command.do](command);
    say({ done: command.id });
  } catch ({ name, message }) {
    say({ failed: command.id, name, message });
  }
}
transport.close();
