// A replay: where it stands, and the orders that it takes. Each order is answered with where it stands then.

import { count, duration, long } from "./words.js";

const SURE_MS = 4000; // so long a second click on Stop counts as an answer
const WORDS = { waiting: "Waiting for clients", playing: "Playing", paused: "Paused", ended: "Ended" };

const $ = (id) => document.getElementById(id);
const say = (id, text) => { if ($(id).textContent !== text) $(id).textContent = text; };
const mark = (id, kind) => { $(id).dataset.kind = kind; };

let shown; // what was shown last
let sureUntil = 0;

// As the recorder knows it, to the millisecond and in UTC: the same words as /replay and the log have.
function utc(ms) {
  return ms ? new Date(ms).toISOString().replace("T", " ") : "before its first record";
}

function pace(rate) {
  return rate === null ? "max" : `${rate}×`;
}

export function showReplay(replay) {
  $("replay").hidden = !replay;
  if (!replay) return;
  shown = replay;
  const ended = replay.state === "ended";
  say("replay-state", `${WORDS[replay.state] || replay.state}${ended ? "" : ` at ${pace(replay.rate)}`}`);
  say("replay-at", utc(replay.position));
  $("replay-progress").hidden = replay.progress === null;
  if (replay.progress !== null) $("replay-progress").value = replay.progress;
  say("replay-events", `${count(replay.events)} events`);
  // Cut, not rounded: 100 % means that everything was played.
  say("replay-part", replay.progress === null ? `since ${utc(replay.begin)}`
    : `${(Math.floor(replay.progress * 1000) / 10).toFixed(1)} % of it`);
  say("replay-lag", duration(replay.lag_secs));
  say("replay-moved", replay.moved_secs ? `its clock was moved by ${duration(replay.moved_secs)}` : "");
  mark("replay-lag-box", replay.lag_secs > 1 ? "warn" : "");
  say("replay-gaps", count(replay.gaps));
  say("replay-shifted", replay.shifted_ms === null ? "" : `times shifted by ${long(replay.shifted_ms / 1000)}`);
  mark("replay-gaps-box", replay.gaps ? "warn" : "");
  say("replay-play", replay.state === "playing" ? "Pause" : "Play");
  showRate(replay.rate === null ? "max" : String(replay.rate));
  for (const id of ["replay-play", "replay-step", "replay-rate"]) $(id).disabled = ended;
  if (performance.now() > sureUntil) say("replay-stop", "Stop");
}

// A rate that somebody gave over HTTP is shown, too. While the list is open, it is left alone.
function showRate(value) {
  const list = $("replay-rate");
  if (document.activeElement === list || list.value === value) return;
  if (![...list.options].some((option) => option.value === value)) list.add(new Option(`${value}×`, value));
  list.value = value;
}

async function order(name, fields = {}) {
  try {
    const answer = await fetch(`replay/${name}`, { method: "POST", body: JSON.stringify(fields) });
    const said = await answer.json();
    say("replay-answer", answer.ok ? "" : said.error);
    if (!answer.ok) return;
    const rate = said.rate === "max" ? null : said.rate;
    showReplay({ ...shown, ...said, rate, begin: said.from, end: said.to });
  } catch {
    say("replay-answer", "The recorder does not answer.");
  }
}

$("replay-play").addEventListener("click", () => order(shown.state === "playing" ? "pause" : "play"));
$("replay-step").addEventListener("click", () => order("step"));
$("replay-rate").addEventListener("change", (event) => {
  order("rate", { rate: event.target.value === "max" ? "max" : Number(event.target.value) });
  event.target.blur();
});
$("replay-stop").addEventListener("click", () => {
  if (performance.now() < sureUntil) {
    order("stop");
    return;
  }
  sureUntil = performance.now() + SURE_MS;
  say("replay-stop", "Really stop?");
});
