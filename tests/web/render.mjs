// A room as a page: {title, me, events} of client.mjs's `timeline` on stdin, HTML on stdout.
// Formatted bodies go through sanitize-html with the tags and attributes that the specification lets
// clients show (client-server API, "m.room.message msgtypes"), as Element does; the style is ours.
import hljs from "highlight.js";
import sanitize from "sanitize-html";

const TAGS = [
  "font", "del", "s", "h1", "h2", "h3", "h4", "h5", "h6", "blockquote", "p", "a", "ul", "ol", "sup",
  "sub", "li", "b", "i", "u", "strong", "em", "strike", "code", "hr", "br", "div", "table", "thead",
  "tbody", "tr", "th", "td", "caption", "pre", "span", "img", "details", "summary",
];
const RULES = {
  allowedTags: TAGS,
  allowedAttributes: {
    font: ["data-mx-bg-color", "data-mx-color", "color"],
    span: ["data-mx-bg-color", "data-mx-color", "data-mx-spoiler", "data-mx-maths"],
    a: ["name", "target", "href", "rel"],
    img: ["width", "height", "alt", "title", "src"],
    ol: ["start"],
    code: ["class"],
  },
  allowedClasses: { code: ["language-*"] },
  allowedSchemes: ["https", "http", "ftp", "mailto", "magnet"],
  transformTags: { a: sanitize.simpleTransform("a", { target: "_blank", rel: "noreferrer noopener" }) },
  nestingLimit: 50,
};

const escape = (text) => String(text).replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);

function highlight(html) {
  return html.replace(/<pre><code class="language-([\w+#.-]+)">([\s\S]*?)<\/code><\/pre>/g,
    (all, language, code) => {
      if (!hljs.getLanguage(language)) return all;
      const text = code.replace(/&lt;/g, "<").replace(/&gt;/g, ">").replace(/&quot;/g, '"')
        .replace(/&#39;/g, "'").replace(/&amp;/g, "&");
      return `<pre><code class="language-${language}">${hljs.highlight(text, { language }).value}</code></pre>`;
    });
}

function words(content) {
  if (content.format !== "org.matrix.custom.html") {
    return `<p class="plain">${escape(content.body ?? "")}</p>`;
  }
  const withoutReply = String(content.formatted_body).replace(/<mx-reply>[\s\S]*?<\/mx-reply>/, "");
  return highlight(sanitize(withoutReply, RULES));
}

function file(event) {
  const { content } = event;
  const name = escape(content.filename ?? content.body);
  const caption = content.filename && content.filename !== content.body ? words(content) : "";
  if (content.msgtype === "m.image" && event.data) {
    const { w, h } = content.info ?? {};
    return `<img class="image" src="${event.data}" alt="${escape(content.body)}" width="${w ?? ""}" height="${h ?? ""}">${caption}`;
  }
  const size = content.info?.size === undefined ? "" : ` · ${(content.info.size / 1024).toFixed(1)} KiB`;
  return `<p class="file"><span class="clip">file</span> ${name}${size}</p>${caption}`;
}

function poll(content) {
  const start = content["m.poll.start"] ?? content["org.matrix.msc3381.poll.start"] ?? content["m.poll"];
  const text = (part) => part?.["org.matrix.msc1767.text"] ?? part?.["m.text"]?.[0]?.body ?? part?.body ?? "";
  const answers = (start?.answers ?? []).map((answer) => `<li>${escape(text(answer))}</li>`).join("");
  return `<p class="plain">${escape(text(start?.question))}</p><ul class="poll">${answers}</ul>`;
}

function shown(event) {
  if (event.is_redacted) return '<p class="gone">Message deleted</p>';
  if (/poll\.start$/.test(event.type)) return poll(event.content);
  if (["m.file", "m.image", "m.audio", "m.video"].includes(event.content.msgtype)) return file(event);
  return words(event.content);
}

function row(event, { me, names }) {
  const mine = event.sender === me ? " mine" : "";
  const notice = event.content.msgtype === "m.notice" ? " notice" : "";
  const reactions = event.reactions.map(({ key, senders }) =>
    `<span class="reaction">${escape(key)} ${senders.length}</span>`).join("");
  const reply = event.reply_to && !event.thread ? '<p class="reply">in reply</p>' : "";
  const thread = event.thread && event.thread !== event.event_id ? '<p class="reply">in a thread</p>' : "";
  return `<article class="message${mine}${notice}" data-event="${escape(event.event_id)}">
<header>${escape(names[event.sender] ?? event.name)}</header>${reply}${thread}
<div class="body">${shown(event)}</div>${event.is_edited ? '<p class="edited">(edited)</p>' : ""}
<footer>${reactions}</footer></article>`;
}

const STYLE = `
*{box-sizing:border-box} body{margin:0;padding:12px;font:15px/1.45 "DejaVu Sans",system-ui,sans-serif;background:#fff;color:#1b1d22}
.message{margin:0 0 14px;max-width:100%} header{font-weight:600;font-size:13px;color:#0b7f67;margin-bottom:2px}
.mine header{color:#5c3bb5} .notice .body{color:#5f6672} .body{overflow-wrap:anywhere} .body p{margin:0 0 6px}
.plain{white-space:pre-wrap} pre{background:#f3f5f7;border:1px solid #e1e4e9;border-radius:6px;padding:8px;overflow-x:auto;white-space:pre;margin:4px 0}
code{font:13px/1.4 "DejaVu Sans Mono",monospace;background:#f3f5f7;border-radius:3px;padding:0 3px} pre code{padding:0;background:none}
table{border-collapse:collapse;display:block;overflow-x:auto;margin:4px 0} th,td{border:1px solid #cfd4dc;padding:3px 8px;text-align:left}
ul,ol{margin:2px 0 6px;padding-left:22px} blockquote{margin:4px 0;padding-left:8px;border-left:3px solid #cfd4dc;color:#4a505a}
details{margin:4px 0} summary{cursor:pointer} .reaction{display:inline-block;border:1px solid #cfd4dc;border-radius:12px;padding:1px 8px;margin:2px 4px 0 0;font-size:13px}
.edited,.reply,.gone{color:#7b828d;font-size:12px;margin:0} .image{max-width:100%;height:auto;border-radius:6px;display:block} .clip{border:1px solid #cfd4dc;border-radius:4px;padding:0 5px;font-size:12px}
.hljs-keyword,.hljs-built_in{color:#7b3bb5} .hljs-string{color:#1b7a38} .hljs-comment{color:#6b7280} .hljs-number{color:#a1490c} .hljs-title{color:#1557b0} .hljs-addition{background:#dff5e1} .hljs-deletion{background:#fbe3e4}
`;
// How wide the page would have to be, for the tests: read from the dumped document.
const MEASURE = `
const wide = [...document.querySelectorAll("body *")].filter((e) => {
  const scrolls = e.closest("pre, table"); const box = e.getBoundingClientRect();
  return !scrolls && box.right > innerWidth + 1; });
document.documentElement.dataset.wide = wide.map((e) => e.tagName).join(" ");
document.documentElement.dataset.height = String(document.body.scrollHeight);`;

const chunks = [];
for await (const chunk of process.stdin) chunks.push(chunk);
const room = JSON.parse(Buffer.concat(chunks).toString());
const visible = room.events.filter((event) =>
  event.type === "m.room.message" || /poll\.start$/.test(event.type));
process.stdout.write(`<!doctype html><html lang="en"><meta charset="utf-8"><title>${escape(room.title)}</title>
<style>${STYLE}</style><body>${visible.map((event) => row(event, room)).join("\n")}<script>${MEASURE}</script></body></html>`);
