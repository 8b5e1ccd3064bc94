// Numbers and times as words.

/** A duration: "40 s", "3 min 20 s", "2 h 5 min". */
export function duration(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s} s`;
  const minutes = Math.floor(s / 60);
  if (minutes < 10) return s % 60 ? `${minutes} min ${s % 60} s` : `${minutes} min`;
  if (minutes < 60) return `${minutes} min`;
  return minutes % 60 ? `${Math.floor(minutes / 60)} h ${minutes % 60} min` : `${minutes / 60} h`;
}

const relative = new Intl.RelativeTimeFormat("en", { numeric: "auto" });

/** How long ago a time (seconds since 1970) was: "just now", "5 minutes ago", "yesterday". */
export function ago(time, now = Date.now() / 1000) {
  const s = Math.max(0, now - time);
  if (s < 45) return "just now";
  if (s < 45 * 60) return relative.format(-Math.round(s / 60), "minute");
  if (s < 22 * 3600) return relative.format(-Math.round(s / 3600), "hour");
  return relative.format(-Math.round(s / 86400), "day");
}

/** A point in time (seconds since 1970), in full. */
export const clock = (time) =>
  new Date(time * 1000).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "medium" });

/** Bytes in the unit that gives one to three digits before the point. */
export function bytes(count) {
  const units = ["bytes", "KiB", "MiB", "GiB", "TiB"];
  let i = 0;
  let value = Number(count);
  for (; value >= 1024 && i < units.length - 1; i++) value /= 1024;
  return `${value >= 100 || i === 0 ? Math.round(value) : value.toFixed(1)} ${units[i]}`;
}

/** Width and height. */
export const size = (width, height) => `${width} × ${height}`;

/** "1 picture", "2 pictures". */
export const count = (n, word) => `${n} ${word}${n === 1 ? "" : "s"}`;
