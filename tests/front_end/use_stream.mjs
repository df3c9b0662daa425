// A React component that shows the conversation with `useStream`, run without a browser.
// node use_stream.mjs URL prints what the component showed, as JSON.
import { JSDOM } from "jsdom";

const dom = new JSDOM("<div id='root'></div>", { url: "http://localhost" });
globalThis.window = dom.window;
globalThis.document = dom.window.document;
globalThis.sessionStorage = dom.window.sessionStorage;
Object.defineProperty(globalThis, "navigator", { value: dom.window.navigator, configurable: true });

const { createElement } = await import("react");
const { createRoot } = await import("react-dom/client");
const { useStream } = await import("@langchain/langgraph-sdk/react");
const { Client } = await import("@langchain/langgraph-sdk");

const url = process.argv[2];
const shown = []; // each picture of the conversation, as the component renders it
let chat;

function textOf(message) {
  const blocks = Array.isArray(message.content) ? message.content : [{ type: "text", text: message.content }];
  return blocks.map((block) => block.reasoning ?? block.text ?? "").join("");
}

function Chat() {
  chat = useStream({ apiUrl: url, assistantId: "slow", messagesKey: "messages" });
  shown.push(chat.messages.map((message) => [message.type, textOf(message)]));
  return createElement("ul", null, chat.messages.map((message) => createElement("li", { key: message.id }, textOf(message))));
}

async function until(true_) {
  for (let left = 1200; !true_(); left -= 1) {
    if (!left) throw new Error(`waited in vain; it shows ${dom.window.document.body.innerHTML}`);
    await new Promise((done) => setTimeout(done, 50));
  }
}

createRoot(dom.window.document.getElementById("root")).render(createElement(Chat));
await until(() => chat);
const turns = [];
for (const text of ["How far?", "And then?"]) {
  const since = shown.length;
  chat.submit({ messages: [{ type: "human", content: text }] }, { context: { max_steps: 3 } });
  await until(() => chat.isLoading);
  await until(() => !chat.isLoading);
  const lengths = shown.slice(since).map((picture) => (picture.at(-1)?.[0] === "ai" ? picture.at(-1)[1].length : 0));
  turns.push({ pictures: new Set(lengths).size, grew: lengths.every((length, index) => !index || length >= lengths[index - 1] || length === 0), error: chat.error ? String(chat.error) : null });
}
const after = chat.messages.map((message) => [message.type, textOf(message)]);

// stopped by the user, and asked again
chat.submit({ messages: [{ type: "human", content: "Why?" }] });
await until(() => chat.messages.length === 6 && textOf(chat.messages[5]).length > 20);
await chat.stop();
await until(() => !chat.isLoading);
const client = new Client({ apiUrl: url });
const threads = await client.threads.search({ limit: 1, sortBy: "updated_at" });
const thread = threads[0].thread_id;
while ((await client.threads.get(thread)).status === "busy") await new Promise((done) => setTimeout(done, 50));
chat.submit({ messages: [{ type: "human", content: "In short?" }] }, { context: { max_steps: 1 } });
await until(() => chat.isLoading);
await until(() => !chat.isLoading);
const last = chat.messages.map((message) => [message.type, textOf(message)]);

// a wrong setting
chat.submit({ messages: [{ type: "human", content: "Again?" }] }, { context: { treshold: 9 } });
await until(() => chat.error);
const problem = String(chat.error);
const html = dom.window.document.querySelectorAll("li").length;
console.log(JSON.stringify({ turns, after, last, problem, html }));
process.exit(0);
