// A person at matrix-js-sdk with its Rust crypto: one request a line on stdin, one answer a line on
// stdout, `{"id", "do", …}` and `{"id", "ok"}` or `{"id", "error"}`. Ends with stdin.
import readline from "node:readline";
import * as sdk from "matrix-js-sdk";
import { logger } from "matrix-js-sdk/lib/logger.js";
import { PollResponseEvent } from "matrix-js-sdk/lib/extensible_events_v1/PollResponseEvent.js";
import { decryptAttachment } from "./attachment.mjs";

logger.setLevel("silent");
for (const name of ["log", "info", "debug", "warn"]) console[name] = () => {};

let client;
let syncing;

async function login({ homeserver, user, password, device }) {
  const guest = sdk.createClient({ baseUrl: homeserver });
  const session = await guest.loginRequest({
    type: "m.login.password",
    identifier: { type: "m.id.user", user },
    password,
    initial_device_display_name: device ?? "a person's client",
  });
  client = sdk.createClient({
    baseUrl: homeserver,
    userId: session.user_id,
    deviceId: session.device_id,
    accessToken: session.access_token,
    timelineSupport: true,
  });
  await client.initRustCrypto({ useIndexedDB: false });
  client.getCrypto().globalBlacklistUnverifiedDevices = false;
  syncing = new Promise((resolve) => {
    client.on(sdk.ClientEvent.Sync, (state) => state === "PREPARED" && resolve());
  });
  await client.startClient({ initialSyncLimit: 200, threadSupport: true });
  await syncing;
  return { user_id: session.user_id };
}

// The room as a client shows it: edits applied, redactions gone, reactions counted.
async function timeline({ room }) {
  const known = client.getRoom(room);
  if (known === null) return [];
  const threads = known.getThreads();
  const events = [...known.getLiveTimeline().getEvents(), ...threads.flatMap((t) => t.events)];
  const seen = new Set();
  const shown = [];
  for (const event of events) {
    const id = event.getId();
    if (seen.has(id)) continue;
    seen.add(id);
    await client.decryptEventIfNeeded(event);
    if (event.isState() || event.isRelation("m.replace")) continue;
    shown.push({
      event_id: id,
      sender: event.getSender(),
      name: known.getMember(event.getSender())?.name ?? event.getSender(),
      at: event.getTs(),
      type: event.getType(),
      content: event.getContent(),
      thread: event.threadRootId ?? null,
      is_edited: event.replacingEvent() !== null,
      is_redacted: event.isRedacted(),
      is_encrypted: event.isEncrypted(),
      reply_to: event.replyEventId ?? null,
      reactions: reactions(known, id),
      highlights: event.getPushActions?.()?.tweaks?.highlight ?? false,
      notifies: event.getPushActions?.()?.notify ?? false,
    });
  }
  return shown.sort((a, b) => a.at - b.at);
}

function reactions(room, id) {
  const found = room.relations.getChildEventsForEvent(id, "m.annotation", "m.reaction");
  const sorted = found?.getSortedAnnotationsByKey() ?? [];
  return sorted.map(([key, events]) => ({
    key,
    senders: [...events].filter((e) => !e.isRedacted()).map((e) => e.getSender()),
  })).filter((one) => one.senders.length > 0);
}

async function download({ room, event_id, thumbnail }) {
  const event = client.getRoom(room).findEventById(event_id);
  const { info, ...named } = event.getContent();
  const content = thumbnail ? { file: info.thumbnail_file, url: info.thumbnail_url } : named;
  const url = client.mxcUrlToHttp(content.file?.url ?? content.url, undefined, undefined, undefined,
    false, true, true);
  const answer = await fetch(url, { headers: { Authorization: `Bearer ${client.getAccessToken()}` } });
  if (!answer.ok) throw new Error(`download: ${answer.status}`);
  const bytes = new Uint8Array(await answer.arrayBuffer());
  const clear = content.file ? await decryptAttachment(bytes, content.file) : bytes;
  return { base64: Buffer.from(clear).toString("base64") };
}

// The polls that the client would show, with the votes that count.
async function polls({ room }) {
  const found = [...(client.getRoom(room)?.polls.values() ?? [])];
  return Promise.all(found.map(async (poll) => {
    const responses = (await poll.getResponses()).getRelations().sort((a, b) => a.getTs() - b.getTs());
    return {
      event_id: poll.pollId,
      question: poll.pollEvent.question.text,
      answers: poll.pollEvent.answers.map(({ id, text }) => ({ id, text })),
      most: poll.pollEvent.maxSelections,
      is_disclosed: poll.pollEvent.kind.matches("org.matrix.msc3381.poll.disclosed"),
      is_ended: poll.isEnded,
      thread: poll.rootEvent.threadRootId ?? null,
      votes: responses.map((event) => {
        const response = event.unstableExtensibleEvent;
        response.validateAgainst(poll.pollEvent);
        return { sender: event.getSender(), answers: response.answerIds, is_spoilt: response.spoiled };
      }),
    };
  }));
}

function vote({ room, event_id, answers }) {
  const { type, content } = PollResponseEvent.from(answers, event_id).serialize();
  return sent(client.sendEvent(room, type, content));
}

async function createRoom({ invite, name, encrypted }) {
  const encryption = {
    type: "m.room.encryption", state_key: "", content: { algorithm: "m.megolm.v1.aes-sha2" },
  };
  const { room_id } = await client.createRoom({
    invite, name, preset: "private_chat", initial_state: encrypted ? [encryption] : [],
  });
  return { room_id };
}

async function members({ room }) {
  return (client.getRoom(room)?.getJoinedMembers() ?? []).map((m) => m.userId);
}

const sent = async (promise) => ({ event_id: (await promise).event_id });

const actions = {
  login,
  timeline,
  download,
  members,
  polls,
  vote,
  create_room: createRoom,
  send: ({ room, content, type }) => sent(client.sendEvent(room, type ?? "m.room.message", content)),
  reply_in_thread: ({ room, thread, content }) =>
    sent(client.sendEvent(room, thread, "m.room.message", content)),
  react: ({ room, event_id, key }) => sent(client.sendEvent(room, "m.reaction", {
    "m.relates_to": { rel_type: "m.annotation", event_id, key },
  })),
  redact: ({ room, event_id }) => sent(client.redactEvent(room, event_id)),
  upload: async ({ base64, name, mimetype }) => {
    const answer = await client.uploadContent(Buffer.from(base64, "base64"), { name, type: mimetype });
    return { url: answer.content_uri };
  },
};

const lines = readline.createInterface({ input: process.stdin });
for await (const line of lines) {
  const { id, do: name, ...rest } = JSON.parse(line);
  try {
    process.stdout.write(`${JSON.stringify({ id, ok: await actions[name](rest) })}\n`);
  } catch (error) {
    process.stdout.write(`${JSON.stringify({ id, error: String(error?.message ?? error) })}\n`);
  }
}
client?.stopClient();
process.exit(0);
