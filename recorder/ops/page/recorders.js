// Other recorders, a line each, where PAGE_RECORDERS names any.

import { ago, and, count, duration } from "./words.js";

const EACH_MS = 2000;

const $ = (id) => document.getElementById(id);

let asked = 0; // when they were asked for last; Infinity: there are no others
let isAsking = false;

// As often as it is called, but for what it would ask too early. `page` has the functions that show something.
export async function showRecorders(page) {
  if (isAsking || performance.now() - asked < EACH_MS) return;
  isAsking = true;
  asked = performance.now();
  try {
    const answer = await fetch("recorders", { cache: "no-store" });
    if (answer.ok) show(await answer.json(), page);
  } catch {
    // That there is no connection shows by itself.
  } finally {
    isAsking = false;
  }
}

function show(lines, { table, say, list }) {
  $("recorders-part").hidden = !lines.length;
  if (!lines.length) {
    asked = Infinity;
    return;
  }
  const unwell = lines.filter((line) => !isWell(line));
  say("recorders-fine", unwell.length ? `${count(lines.length - unwell.length)} of ${count(lines.length)} are ready.`
    : `All ${count(lines.length)} are ready.`);
  list("recorders-reasons", unwell.flatMap((line) => line.reasons.map((reason) => `${line.name}: ${reason}`)));
  table("recorders", lines.map((line) => line.state === "no answer" ? [
    { text: line.name, isName: true }, { text: line.state, kind: "bad" }, "", "", "", "", "", "", "",
  ] : [
    { text: line.is_this ? `${line.name} (this one)` : line.name, isName: true },
    { text: line.state, kind: isWell(line) ? "" : "bad", title: line.version },
    line.does,
    and(line.clusters),
    line.events_per_sec === null ? `${count(line.frames_per_sec)} frames/s` : `${count(line.events_per_sec)}/s`,
    line.data_age_secs === null ? "none yet" : ago(line.data_age_secs),
    { text: duration(line.lag_secs), kind: line.lag_secs > 1 ? "warn" : "" },
    { text: count(line.gaps), kind: line.gaps ? "warn" : "" },
    count(line.clients),
  ]));
}

function isWell(line) {
  return line.state !== "not ready" && line.state !== "no answer";
}

// Another life of the recorder may have others.
export function forgetRecorders() {
  asked = 0;
}
