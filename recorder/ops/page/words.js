// Figures as people read them. Everything here gives plain text.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

export function count(number) {
  return whole.format(number);
}

export function size(bytes) {
  if (bytes < 1024) return `${whole.format(bytes)} B`;
  let value = bytes;
  for (const unit of ["KiB", "MiB", "GiB", "TiB"]) {
    value /= 1024;
    if (value < 1000 || unit === "TiB") return `${value < 10 ? value.toFixed(2) : value < 100 ? value.toFixed(1) : whole.format(value)} ${unit}`;
  }
  return "";
}

export function several(number, one, many = `${one}s`) {
  return `${count(number)} ${number === 1 ? one : many}`;
}

// 0.3 ms, 12 ms, 4.2 s, 58 s, 3 min 20 s, 2 h 14 min, 5 d 3 h
export function duration(secs) {
  if (secs < 0.00005) return "0 ms";
  if (secs < 0.01) return `${(secs * 1e3).toFixed(1)} ms`;
  if (secs < 1) return `${Math.round(secs * 1e3)} ms`;
  if (secs < 10) return `${secs.toFixed(1)} s`;
  return long(secs);
}

// The same in whole seconds, for what changes each second.
export function long(secs) {
  const s = Math.max(0, Math.floor(secs));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

export function ago(secs) {
  return secs < 1.5 ? "now" : `${long(secs)} ago`;
}

// In the time zone of who looks, with the date unless it is today's.
export function moment(ms) {
  const at = new Date(ms);
  const time = at.toLocaleTimeString("en-GB");
  return at.toDateString() === new Date().toDateString() ? time : `${at.toLocaleDateString("en-CA")} ${time}`;
}

// The same with date and zone: for what stays on the page, and for whoever reads a picture of it.
export function day(ms) {
  const at = new Date(ms);
  return `${at.toLocaleDateString("en-CA")} ${at.toLocaleTimeString("en-GB", {
    hour: "2-digit", minute: "2-digit", second: "2-digit", timeZoneName: "short",
  })}`;
}

const coarse = new Intl.NumberFormat("en", { minimumFractionDigits: 2, maximumFractionDigits: 4 });
const fine = new Intl.NumberFormat("en", { maximumSignificantDigits: 6, maximumFractionDigits: 12 });

// 272.15, 84,500.00, 0.000012345
export function price(number) {
  return (Math.abs(number) >= 1 ? coarse : fine).format(number);
}

const tenths = new Intl.NumberFormat("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 });

export function rate(number) {
  return number >= 100 ? count(number) : tenths.format(number);
}

export function listed(counts) {
  return Object.entries(counts).map(([name, number]) => `${name} ${count(number)}`).join(", ");
}

export function and(words) {
  return words.length < 2 ? words.join("") : `${words.slice(0, -1).join(", ")} and ${words.at(-1)}`;
}
