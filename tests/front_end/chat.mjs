// Chats with the loop behind `langgraph dev` through LangGraph's JavaScript SDK, as a front end does.
// node chat.mjs URL SCENARIO prints what the front end saw, as JSON.
import { Client } from "@langchain/langgraph-sdk";

const [url, scenario] = process.argv.slice(2);
const client = new Client({ apiUrl: url });
const ask = (text) => ({ messages: [{ type: "human", content: text }] });

/** Text and reasoning of a message, streamed or kept. */
function told(messages) {
  const blocks = messages.flatMap((message) => (Array.isArray(message.content) ? message.content : [{ type: "text", text: message.content }]));
  const of = (kind) => blocks.filter((block) => block.type === kind).map((block) => block[kind]);
  return { text: of("text").join(""), reasoning: of("reasoning") };
}

/** Whether a thread is being worked on. */
async function idle(thread) {
  while ((await client.threads.get(thread)).status === "busy") await new Promise((done) => setTimeout(done, 50));
}

async function conversation(thread) {
  const { values } = await client.threads.getState(thread);
  return values.messages.map((message) => ({ type: message.type, id: message.id, ...told([message]) }));
}

/** One turn: what was streamed of it; `leave` says when the front end stops it. */
async function turn(thread, input, { graph = "slow", leave = () => false, ...more } = {}) {
  const seen = { chunks: [], errors: [], snapshots: 0 };
  let run;
  const stream = client.runs.stream(thread, graph, { input, streamMode: ["messages-tuple", "values"], streamSubgraphs: true, onRunCreated: (created) => { run = created.run_id; }, ...more });
  for await (const part of stream) {
    if (part.event === "error") seen.errors.push(part.data);
    if (part.event === "values") seen.snapshots += 1;
    if (part.event.startsWith("messages")) seen.chunks.push(part.data[0]);
    if (run && leave(seen)) {
      leave = () => false;
      await client.runs.cancel(thread, run, true);
    }
  }
  const ids = [...new Set(seen.chunks.map((chunk) => chunk.id))];
  const pieces = seen.chunks.filter((chunk) => told([chunk]).text).length;
  return { ids, pieces, snapshots: seen.snapshots, errors: seen.errors, ...told(seen.chunks) };
}

const scenarios = {
  async turns() {
    const { thread_id: thread } = await client.threads.create();
    const context = { max_steps: 2 };
    const turns = [await turn(thread, ask("How far?"), { context }), await turn(thread, ask("And then?"), { context })];
    const states = await client.threads.getHistory(thread, { limit: 1000 });
    const lengths = [...new Set(states.reverse().map((state) => (state.values.messages ?? []).length))];
    return { turns, conversation: await conversation(thread), lengths };
  },

  async cancel() {
    const { thread_id: thread } = await client.threads.create();
    const stopped = await turn(thread, ask("How far?"), { leave: (seen) => seen.chunks.length === 3 });
    await idle(thread);
    const between = await conversation(thread);
    const resumed = await turn(thread, null);
    return { stopped, between, resumed, conversation: await conversation(thread) };
  },

  async events() {
    const stream = client.threads.stream({ assistantId: "slow" });
    await stream.run.start({ input: ask("How far?") });
    const turns = [];
    for await (const message of stream.messages) {
      const pieces = [];
      for await (const piece of message.text) pieces.push(piece);
      const output = await message.output;
      turns.push({ id: message.id, pieces: pieces.length, text: pieces.join(""), reasoning: await message.reasoning, kinds: output.content.map((block) => block.type) });
    }
    await stream.close();

    // what is streamed of a second turn comes behind the first one's events, which a stream of the thread begins with
    const again = client.threads.stream(stream.threadId, { assistantId: "slow" });
    const events = await again.subscribe(["messages", "lifecycle"]);
    await again.submitRun({ input: ask("And then?") });
    const second = { pieces: 0, text: "", reasoning: "", kinds: [] };
    const known = turns.map((each) => each.id);
    reading: while (true) {
      for await (const { method, params } of events) {
        const { event, ...data } = params.data;
        if (event === "message-start") second.id = data.id;
        if (method !== "messages" || known.includes(second.id)) continue;
        if (event === "content-block-finish") second.kinds.push(data.content.type);
        if (data.delta?.type === "reasoning-delta") second.reasoning += data.delta.reasoning;
        if (data.delta?.type === "text-delta") {
          second.text += data.delta.text;
          second.pieces += 1;
        }
        if (event === "message-finish") break reading;
      }
      await events.waitForResume();
    }
    turns.push(second);
    await again.close();
    await idle(stream.threadId);
    return { turns, conversation: await conversation(stream.threadId) };
  },

  async errors() {
    const { thread_id: thread } = await client.threads.create();
    const wrong = [
      [{ input: ask("How far?"), context: { treshold: 9 } }, "slow"],
      [{ input: ask("How far?"), context: { threshold: 11 } }, "slow"],
      [{ input: ask("How far?"), config: { configurable: { specreason: { treshold: 9 } } } }, "slow"],
      [{ input: { quesiton: "How far?" } }, "slow"],
      [{ input: ask("How far?") }, "dead"],
      [{ input: ask("hi") }, "specreason"],
    ];
    const found = [];
    for (const [{ input, ...more }, graph] of wrong) found.push((await turn(thread, input, { graph, ...more })).errors);
    return { errors: found.flat() };
  },
};

console.log(JSON.stringify(await scenarios[scenario]()));
process.exit(0);
