// The live page. It only ever reads, but for the orders to a replay: snapshots from /events, and every text goes onto it
// as text.

import { Plots } from "./plots.js";
import { forgetRecorders, showRecorders } from "./recorders.js";
import { showReplay } from "./replay.js";
import { ago, and, count, day, duration, listed, long, moment, price, rate, several, size } from "./words.js";

const LOST_MS = 5000; // a snapshot comes each second
const DEAD_MS = 15000; // after so long, a connection that looks open is not
const RETRY_MS = 3000;

// In here, since the page needs the second one when it cannot ask for it.
const icon = (shapes) => `data:image/svg+xml,${encodeURIComponent(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32" fill="none" stroke="#fff" stroke-width="3.5" stroke-linecap="round" stroke-linejoin="round">${shapes}</svg>`)}`;
const READY_ICON = icon('<circle cx="16" cy="16" r="15" fill="#1a7f4b" stroke="none"/><path d="M9 16.5l5 5L23.5 11"/>');
const NOT_READY_ICON = icon('<path d="M16 2L30 29H2z" fill="#c4321c" stroke="#c4321c"/><path d="M16 11v8M16 24v.1"/>');

const $ = (id) => document.getElementById(id);
const plots = new Plots();

let snapshot; // the newest
let before; // the one before it, for what is shown as a rate
let arrived = 0; // when the newest came
let source;

// --- texts, lists, tables -------------------------------------------------------------------------------------------

function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// A name that may be long breaks behind a dot, a dash or an underscore, before it breaks anywhere.
function putName(element, name) {
  if (element.textContent === name) return;
  const pieces = name.match(/[^._-]*[._-]|[^._-]+$/g) || [];
  element.replaceChildren(...pieces.flatMap((piece) => [piece, document.createElement("wbr")]));
}

function say(id, text) {
  put($(id), text);
}

function mark(element, kind) {
  if (element.dataset.kind !== kind) element.dataset.kind = kind;
}

function fit(parent, children, number, make) {
  while (children.length > number) children[children.length - 1].remove();
  while (children.length < number) parent.append(make());
}

function list(id, texts) {
  const parent = $(id);
  fit(parent, parent.children, texts.length, () => document.createElement("li"));
  texts.forEach((text, place) => put(parent.children[place], text));
  parent.hidden = !texts.length;
}

// A cell is a text, or {text, kind, title, share, isName}: how it is coloured, what is said besides, how full a bar is,
// whether it is the name of a file.
function table(id, rows) {
  const heads = $(id).tHead.rows[0].cells;
  const body = $(id).tBodies[0];
  fit(body, body.rows, rows.length, () => {
    const row = document.createElement("tr");
    for (const head of heads) row.insertCell().className = head.className;
    return row;
  });
  rows.forEach((cells, place) => cells.forEach((cell, column) => {
    const element = body.rows[place].cells[column];
    const { text, kind = "", title = "", share, isName } = typeof cell === "object" ? cell : { text: cell };
    (isName ? putName : put)(element, text);
    mark(element, kind);
    if (element.title !== title) element.title = title;
    element.classList.toggle("bar", share !== undefined);
    if (share !== undefined) element.style.setProperty("--share", `${Math.min(1, share) * 100}%`);
  }));
  $(id).parentElement.hidden = !rows.length;
}

// --- what is shown --------------------------------------------------------------------------------------------------

function perSec(now, then) {
  const secs = before ? (snapshot.at - before.at) / 1000 : 0;
  return secs > 0 && secs < 10 ? Math.max(0, (now - then) / secs) : 0;
}

function sum(items, name) {
  return items.reduce((total, item) => total + item[name], 0);
}

function total(counts) {
  return Object.values(counts).reduce((all, number) => all + number, 0);
}

function showState() {
  const silentMs = performance.now() - arrived;
  const state = $("state");
  const lost = snapshot && silentMs > LOST_MS;
  document.body.classList.toggle("lost", Boolean(lost));
  document.body.classList.toggle("waiting", !snapshot);
  if (!snapshot || lost) {
    state.dataset.state = lost ? "lost" : "unknown";
    say("state-word", lost ? "No connection" : "Connecting");
    say("state-words", lost
      ? `The last word is ${long(silentMs / 1000)} old: it was ${snapshot.ready ? "ready" : "not ready"} then. Trying again.`
      : arrivalFailed ? "The recorder does not answer. Trying again." : "Waiting for the first figures.");
    $("help").hidden = true;
    list("reasons", []);
    list("warnings", []);
    list("notes", []);
    document.title = lost ? "No connection – recorder" : "recorder";
    setIcon(false);
    return;
  }
  const does = snapshot.replay ? "Replaying" : snapshot.sinks.length ? "Recording" : "Serving";
  state.dataset.state = snapshot.ready ? "ready" : "not-ready";
  say("state-word", snapshot.ready ? does : "Not ready");
  say("state-words", snapshot.ready ? summary() : several(snapshot.reasons.length, "reason"));
  $("help").hidden = snapshot.ready;
  list("reasons", snapshot.reasons);
  list("warnings", snapshot.warnings);
  list("notes", snapshot.notes);
  document.title = `${snapshot.ready ? does : "Not ready"} – ${snapshot.hostname}`;
  setIcon(snapshot.ready);
}

function setIcon(ready) {
  const icon = ready ? READY_ICON : NOT_READY_ICON;
  if ($("icon").getAttribute("href") !== icon) $("icon").setAttribute("href", icon);
}

function summary() {
  const words = [and(snapshot.feeds.map((feed) => feed.cluster))];
  if (snapshot.sinks.length) {
    const dropped = snapshot.sinks.reduce((total, sink) => total + sink.balance.dropped, 0);
    words.push(dropped ? `${count(dropped)} dropped since the start` : "nothing dropped");
    words.push(snapshot.sinks.some((sink) => sink.balance.difference) ? "the books do not balance" : "the books balance");
  }
  return words.join(" · ");
}

function showHead() {
  say("host", snapshot.hostname);
  say("about", `version ${snapshot.version} · up ${long(snapshot.uptime_secs)}`);
  say("since", `since ${day(snapshot.started)}`);
  say("run", `run ${snapshot.run_id} · process ${snapshot.pid} · started ${day(snapshot.started)}`);
}

function showFigures() {
  const { feeds, sinks, servers, archive } = snapshot;
  const counted = feeds.some((feed) => feed.events_received !== null);
  say("events-rate", counted ? `${count(sum(feeds, "events_per_sec"))}/s` : `${count(sum(feeds, "frames_per_sec"))} frames/s`);
  say("events-all", counted ? `${count(sum(feeds, "events_received"))} in all` : `${count(sum(feeds, "frames_received"))} frames`);
  say("bytes-rate", `${size(sum(feeds, "bytes_per_sec"))}/s`);
  say("bytes-all", `${size(sum(feeds, "bytes_received"))} in all`);
  for (const box of ["written-box", "pending-box", "dropped-box"]) $(box).hidden = !sinks.length;
  const written = sum(sinks, "bytes_written");
  say("written-rate", `${size(perSec(written, before ? sum(before.sinks, "bytes_written") : 0))}/s`);
  say("written-all", `${size(written)} in all`);
  const pending = sum(sinks, "pending_bytes");
  const room = sum(sinks, "pending_bytes_max");
  say("pending", size(pending));
  say("pending-more", room ? `of ${size(room)} · peak ${size(sum(sinks, "pending_bytes_peak"))}` : "");
  mark($("pending-box"), sinks.some((sink) => sink.failure || sink.pending_bytes > sink.pending_bytes_max / 2) ? "bad" : "");
  const dropped = sinks.reduce((total, sink) => total + sink.balance.dropped, 0);
  const errors = sum(sinks, "write_errors");
  say("dropped", count(dropped));
  say("dropped-more", errors ? several(errors, "write error") : "no write errors");
  mark($("dropped-box"), dropped ? "bad" : "");
  const disk = archive && archive.pressure;
  $("disk-box").hidden = !disk || disk.free_bytes === null;
  if (disk && disk.free_bytes !== null) {
    say("disk", size(disk.free_bytes));
    say("disk-more", disk.step === "none" ? `${size(disk.min_free_bytes)} are kept free` : `step: ${disk.step}`);
    mark($("disk-box"), disk.step === "none" ? "" : "warn");
  }
  $("clients-box").hidden = !servers.length;
  say("clients-all", count(snapshot.clients_count));
  const sent = sum(servers, "bytes_delivered");
  say("clients-more", `${size(perSec(sent, before ? sum(before.servers, "bytes_delivered") : 0))}/s delivered`);
  say("lag", duration(snapshot.loop_lag_secs));
  say("lag-more", `peak ${duration(snapshot.loop_lag_peak_secs)}`);
  mark($("lag").parentElement, snapshot.loop_lag_secs > 0.5 ? "warn" : "");
}

function showFeeds() {
  const parent = $("feeds");
  fit(parent, parent.children, snapshot.feeds.length, () => $("feed").content.cloneNode(true));
  snapshot.feeds.forEach((feed, place) => showFeed(parent.children[place], feed));
}

const STATES = {
  starting: "Starting",
  connecting: "Connecting",
  authenticating: "Authenticating",
  subscribing: "Subscribing",
  streaming: "Streaming",
  waiting: "Waiting to connect again",
  stopped: "Stopped",
};

function showFeed(card, feed) {
  const part = (name) => card.querySelector(name);
  const now = snapshot.at;
  mark(card, feed.ready ? "" : "bad");
  put(part("h3"), feed.cluster);
  put(part(".mark"), `${STATES[feed.state] || feed.state}${feed.state === "streaming" ? " for" : ", no data for"} ${long((now - feed.since) / 1000)}`);
  const counted = feed.events_received !== null;
  const rate = counted ? feed.events_per_sec : feed.frames_per_sec;
  put(part(".value"), count(rate));
  put(part(".unit"), counted ? "events/s" : "frames/s");
  const plot = plots.push(feed.cluster, part(".canvas"), rate);
  put(part("figcaption"), `${plot.secs < 120 ? `${plot.secs} s` : `${Math.round(plot.secs / 60)} min`} · peak ${count(plot.peak)}/s`);
  put(part(".last"), feed.last_received ? ago((now - feed.last_received) / 1000) : "none yet");
  put(part(".topics"), feed.topics_acknowledged < feed.topics_wanted
    ? `${count(feed.topics_acknowledged)} of ${count(feed.topics_wanted)}` : count(feed.topics_wanted));
  put(part(".received"), counted ? count(feed.events_received) : `${count(feed.frames_received)} frames`);
  const resumed = feed.resumes ? `; ${count(feed.resumes)} resumed` : "";
  put(part(".reconnects"), feed.reconnects ? `${count(feed.reconnects)} (${listed(feed.ended_by)}${resumed})` : "0");
  const stream = snapshot.streams.find((one) => one.cluster === feed.cluster);
  part(".follows").hidden = !stream;
  if (!stream) return;
  put(part(".stream"), `${stream.stream}, ${!stream.server ? "not connected"
    : stream.lag_secs ? `${duration(stream.lag_secs)} behind (${several(stream.lag_messages, "message")})` : "nothing waits"}`);
  mark(part(".follows"), stream.lag_secs > 10 ? "warn" : "");
}

// --- symbols --------------------------------------------------------------------------------------------------------

let found; // the last answer to a search
let isSearching = false;

function wanted() {
  return $("find").value.trim();
}

// Every second, and whenever somebody types; one question at a time.
async function search() {
  const find = wanted();
  if (!find || isSearching) return;
  isSearching = true;
  try {
    const answer = await fetch(`status?find=${encodeURIComponent(find)}`, { cache: "no-store" });
    if (answer.ok) found = { find, symbols: (await answer.json()).symbols };
  } catch {
    // That there is no connection shows by itself.
  } finally {
    isSearching = false;
  }
  showSymbols();
  if (wanted() !== find) search();
}

function showSymbols() {
  const find = wanted();
  const isFound = found && found.find === find;
  const { symbols_count: number } = snapshot;
  const symbols = !find ? snapshot.symbols : isFound ? found.symbols : [];
  $("symbols-part").hidden = !number && !find;
  const most = symbols.length ? symbols[0].events_per_sec : 0;
  say("symbols-fine", find && !isFound ? "Searching."
    : find ? `${several(symbols.length, "symbol")} of ${count(number)} with “${find}”.`
      : number > symbols.length ? `The ${count(symbols.length)} busiest of ${count(number)}.` : "");
  table("symbols", symbols.map((symbol) => [
    symbol.symbol,
    symbol.cluster,
    symbol.price === null ? "–" : price(symbol.price),
    { text: rate(symbol.events_per_sec), share: most ? symbol.events_per_sec / most : 0 },
  ]));
}

// --- files, books, losses -------------------------------------------------------------------------------------------

// When a file will be rotated: by the clock, or by its size as it grows now, whatever comes first.
function rotation(file, archive) {
  const ways = [];
  const old = before && before.archive && before.archive.active.find((other) => other.file === file.file);
  const growth = old ? perSec(file.bytes, old.bytes) : 0;
  if (file.rotates_at) ways.push([Math.max(0, file.rotates_at - snapshot.at) / 1000, ""]);
  if (archive.rotate_bytes && growth > 0) ways.push([Math.max(0, archive.rotate_bytes - file.bytes) / growth, "about "]);
  if (!ways.length) return archive.rotate_bytes ? `at ${size(archive.rotate_bytes)}` : archive.rotate_secs ? "once it has data" : "never";
  const [secs, about] = ways.sort((a, b) => a[0] - b[0])[0];
  return `in ${about}${long(secs)}`;
}

function showArchive() {
  const archive = snapshot.archive;
  $("archive").hidden = !archive;
  if (!archive) return;
  table("active", archive.active.map((file) => [
    { text: file.file, isName: true },
    count(file.records),
    archive.rotate_bytes
      ? { text: size(file.bytes), share: file.bytes / archive.rotate_bytes, title: `rotated at ${size(archive.rotate_bytes)}` }
      : size(file.bytes),
    rotation(file, archive),
  ]));
  table("recent", archive.recent.map((file) => [
    { text: file.file, isName: true, kind: file.deleted ? "gone" : "", title: file.deleted ? "deleted by retention" : "" },
    count(file.records),
    size(file.bytes),
    file.deleted ? "deleted" : file.compressed_bytes === null ? "plain" : size(file.compressed_bytes),
    file.reason,
    ago((snapshot.at - file.closed) / 1000),
  ]));
  const words = [archive.rotations ? `${several(archive.rotations, "file")} finished in this run` : "No file finished yet in this run"];
  if (archive.compress_pending) words.push(`${count(archive.compress_pending)} wait for compression`);
  if (archive.upload) {
    words.push(`${count(archive.upload.uploaded)} uploaded`);
    if (archive.upload.waiting_files) {
      words.push(`${count(archive.upload.waiting_files)} wait for upload (${size(archive.upload.waiting_bytes)})`);
    }
  }
  if (archive.deleted) words.push(`${count(archive.deleted)} deleted by retention`);
  if (archive.rejects_written) words.push(`${several(archive.rejects_written, "line")} in the reject file`);
  const errors = archive.fsync_errors + archive.manifest_errors + archive.compress_errors;
  if (errors) words.push(`${several(errors, "error")} of disk or compression`);
  say("archive-fine", words.join(" · "));
}

function showBooks() {
  const { sinks } = snapshot;
  $("books").hidden = !sinks.length;
  const wrong = sinks.filter((sink) => sink.balance.difference);
  say("books-fine", wrong.length
    ? `The books of ${and(wrong.map((sink) => sink.name))} do not balance: that is a defect, and worth a report.`
    : "They balance: every event that was received is recorded, left out on purpose, rejected, dropped, or on its way.");
  mark($("books-fine"), wrong.length ? "bad" : "");
  table("balance", sinks.map(({ name, balance }) => [
    name,
    ...["received", "recorded", "filtered", "sampled_out", "rejected"].map((key) => count(balance[key])),
    { text: count(balance.dropped), kind: balance.dropped ? "bad" : "" },
    count(balance.pending),
    { text: count(balance.difference), kind: balance.difference ? "bad" : "" },
  ]));
  const appended = sinks.flatMap((sink) => sink.streams);
  $("appended-box").hidden = !appended.length;
  table("appended", appended.map((one) => [
    one.stream,
    one.leads ? "leads" : "follows",
    one.other,
    count(one.uncovered_events),
    count(one.behind_messages),
    { text: count(one.filled_events), kind: one.filled_events ? "bad" : "" },
    count(one.takeovers),
  ]));
}

function showLosses() {
  const gaps = sum(snapshot.feeds, "gaps");
  const words = snapshot.feeds
    .filter((feed) => feed.gap_since)
    .map((feed) => `${feed.cluster}: no data for ${duration(Math.max(0, snapshot.at - feed.gap_since) / 1000)} (${feed.gap_reason})`);
  mark($("gaps-fine"), words.length ? "bad" : "");
  if (gaps) {
    words.push(`${several(gaps, "gap")}, ${duration(sum(snapshot.feeds, "gap_secs"))} in all`);
  }
  for (const feed of snapshot.feeds.filter((one) => one.today_missing_secs && one.today_complete !== null)) {
    // Cut, not rounded: 100 % means that nothing is missing.
    const percent = (Math.floor(feed.today_complete * 1e5) / 1e3).toFixed(3);
    words.push(`${feed.cluster} today: ${percent} % complete, ${duration(feed.today_missing_secs)} missing`);
  }
  say("gaps-fine", words.join("; ") || "None in this run.");
  table("gaps", snapshot.recent_gaps.map((gap) => [
    gap.cluster,
    duration(Math.max(0, gap.ended - gap.begun) / 1000),
    { text: ago((snapshot.at - gap.ended) / 1000), title: moment(gap.ended) },
    gap.reason,
  ]));
  const drops = snapshot.sinks.flatMap((sink) => sink.recent_drops.map((drop) => ({ ...drop, sink: sink.name })));
  drops.sort((a, b) => b.last - a.last);
  const dropped = snapshot.sinks.reduce((total, sink) => total + sink.balance.dropped, 0);
  say("drops-fine", dropped ? `${several(dropped, "record")} dropped` : "None in this run.");
  table("drops", drops.map((drop) => [
    drop.sink,
    `${drop.cluster} ${drop.channel}`,
    count(drop.count),
    { text: ago((snapshot.at - drop.last) / 1000), title: moment(drop.last) },
    drop.reason,
  ]));
}

// Parts that simply run, or wait for their turn at start and stop, would only fill the page.
function showParts() {
  const parts = snapshot.parts.filter((part) => part.failed_at || ["starting", "degraded", "over"].includes(part.state));
  $("parts-part").hidden = !parts.length;
  table("parts", parts.map((part) => [
    part.name,
    { text: part.state, kind: part.state === "degraded" ? "bad" : "" },
    count(part.restarts),
    part.failed_at ? { text: ago((snapshot.at - part.failed_at) / 1000), title: moment(part.failed_at) } : "",
    part.failure,
  ]));
}

function showClients() {
  const { servers, clients } = snapshot;
  $("serving").hidden = !servers.length;
  table("servers", servers.map((server) => [
    server.port,
    count(server.clients),
    count(server.subscriptions),
    size(server.bytes_delivered),
    count(server.events_delivered),
    { text: size(server.pending_bytes_max), title: `late by ${duration(server.lag_secs_max)} at most`, kind: server.lag_secs_max > 2 ? "warn" : "" },
    { text: count(server.events_dropped + server.events_conflated), kind: server.events_dropped ? "warn" : "",
      title: `as clients had chosen: dropped ${count(server.events_dropped)}, conflated ${count(server.events_conflated)}` },
    { text: count(total(server.resumes)), title: listed(server.resumes), kind: server.resumes.refused || server.resumes.partial ? "warn" : "" },
    { text: count(total(server.evictions)), title: listed(server.evictions) },
    { text: count(server.auth_failures + total(server.refused)), title: listed({ ...server.refused, token: server.auth_failures }) },
  ]));
  const more = snapshot.clients_count - clients.length;
  say("clients-fine", !snapshot.clients_count ? "No client is connected."
    : more > 0 ? `The ${count(clients.length)} that leave most unread, of ${count(snapshot.clients_count)}.` : `${several(clients.length, "client")}.`);
  table("clients", clients.map((client) => [
    `${client.address.includes(":") ? `[${client.address}]` : client.address}:${client.address_port}`,
    client.worker ? `${client.port}, worker ${client.worker}` : client.port,
    { text: topics(client), title: client.topics.join(", ") },
    { text: size(client.unread_bytes), title: client.left_out ? `${count(client.left_out)} events left out (${client.slow})` : "", kind: client.left_out ? "warn" : "" },
    { text: duration(client.lag_secs), kind: client.lag_secs > 2 ? "warn" : "" },
    count(client.events),
    size(client.bytes),
    long(client.connected_secs),
    client.token || "not authenticated",
    client.agent,
  ]));
}

function topics(client) {
  const shown = client.topics.join(", ");
  const rest = client.topics_count - client.topics.length;
  return rest > 0 ? `${shown} and ${count(rest)} more` : shown || "none";
}

function showOthers() {
  const { workers, bars } = snapshot;
  $("workers-part").hidden = !workers.length;
  table("workers", workers.map((worker) => [
    count(worker.worker),
    { text: worker.state, kind: worker.state === "up" ? "" : "bad" },
    count(total(worker.clients)),
    size(worker.pending_bytes),
    duration(worker.lag_secs),
    size(worker.memory_bytes),
    duration(worker.cpu_secs),
    { text: count(total(worker.restarts)), title: listed(worker.restarts) },
  ]));
  $("bars-part").hidden = !bars.made.length && !bars.relayed;
  say("bars-fine", bars.relayed ? `${count(bars.relayed)} taken from another recorder`
    : bars.replays ? `${several(bars.replays, "request")} for bars of the past` : "");
  table("bars", bars.made.map((made) => [
    made.cluster, count(made.bars), count(made.trades), count(made.open_windows), count(made.late), count(made.not_counted), count(made.unreadable),
  ]));
}

function show() {
  showState();
  if (!snapshot || document.hidden) return;
  showHead();
  showReplay(snapshot.replay);
  showFigures();
  showRecorders({ table, say, list });
  showFeeds();
  showSymbols();
  showArchive();
  showBooks();
  showLosses();
  showParts();
  showClients();
  showOthers();
}

// --- where it comes from --------------------------------------------------------------------------------------------

let arrivalFailed = false;

function take(content) {
  if (snapshot && content.run_id === snapshot.run_id && content.at <= snapshot.at) return;
  before = snapshot && snapshot.run_id === content.run_id ? snapshot : undefined;
  if (!before) forgetRecorders();
  snapshot = content;
  arrived = performance.now();
  show();
  search();
}

function connect() {
  source = new EventSource("events?symbols");
  source.addEventListener("history", (event) => plots.remember(JSON.parse(event.data).feeds));
  source.addEventListener("snapshot", (event) => take(JSON.parse(event.data)));
  source.addEventListener("error", () => {
    arrivalFailed = true;
    // The browser connects again by itself, unless it was refused.
    if (source.readyState === EventSource.CLOSED) retry();
  });
}

async function retry() {
  source.close();
  setTimeout(connect, RETRY_MS);
  try {
    const answer = await fetch("status?find=", { cache: "no-store" });
    if (answer.ok) take(await answer.json());
  } catch {
    // That there is no connection shows by itself.
  }
}

setInterval(() => {
  if (performance.now() - arrived > LOST_MS) showState();
  if (arrived && performance.now() - arrived > DEAD_MS && source.readyState === EventSource.OPEN) {
    source.close();
    connect();
  }
}, 1000);
document.addEventListener("visibilitychange", show);
$("find").addEventListener("input", () => {
  if (snapshot) showSymbols();
  search();
});
showState();
connect();
