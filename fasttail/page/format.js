// Numbers and times in words.

const short = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });
const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

export const none = "–";

export const compact = (value) => (value == null ? none : short.format(value));
export const exact = (value) => (value == null ? none : whole.format(value));
export const megabytes = (bytes) => (bytes == null ? none : `${(bytes / 1e6).toFixed(bytes < 1e7 ? 2 : 1)} MB`);

export function seconds(value) {
  if (value == null) return none;
  if (value < 1) return `${Math.round(value * 1000)} ms`;
  if (value < 90) return `${value.toFixed(value < 10 ? 1 : 0)} s`;
  return value < 5400 ? `${Math.round(value / 60)} min` : `${(value / 3600).toFixed(1)} h`;
}

export const clock = (ms) => new Date(ms).toISOString().slice(11, 23);

// Replaces what an element holds by texts and elements. What a node wrote is only ever a text here.
export function fill(element, ...parts) {
  element.replaceChildren(...parts);
  return element;
}

export function make(tag, name, ...parts) {
  const element = document.createElement(tag);
  if (name) element.className = name;
  return fill(element, ...parts);
}
