// Numbers and times as people read them. Times are UTC, ISO 8601; durations are in seconds.

export const STATUSES = ["new", "queued", "running", "pending", "interrupted", "waiting", "failed", "finished"];

const UNITS = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];

export function age(time, now) {
  const seconds = Math.max(0, (now - Date.parse(time)) / 1000);
  const [size, unit] = UNITS.find(([size]) => seconds >= size) ?? [1, "s"];
  return `${Math.floor(seconds / size)} ${unit}`;
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "";
  if (seconds < 0.9995) return `${digits(seconds * 1000)} ms`;
  if (seconds < 60) return `${digits(seconds)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${Math.floor(seconds % 60)} s`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

function digits(number) {
  return number >= 100 ? number.toFixed(0) : number >= 10 ? number.toFixed(1) : number.toFixed(2);
}

export function bytes(count) {
  if (count === null || count === undefined) return "";
  if (count < 1000) return `${count} B`;
  const unit = count < 1e6 ? [1e3, "kB"] : count < 1e9 ? [1e6, "MB"] : [1e9, "GB"];
  return `${digits(count / unit[0])} ${unit[1]}`;
}

export function count(number, one, many = `${one}s`) {
  return `${number.toLocaleString("en")} ${number === 1 ? one : many}`;
}

/** 2026-11-23T18:29:01.123456Z -> 18:29:01.123, with the day in front if it is not today's. */
export function moment(time, now = Date.now()) {
  if (!time) return "";
  const [day, clock] = time.replace("Z", "").split("T");
  const today = new Date(now).toISOString().slice(0, 10);
  return day === today ? clock.slice(0, 12) : `${day.slice(5)} ${clock.slice(0, 8)}`;
}
