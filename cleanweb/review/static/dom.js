// Elements and messages. Text from a crawl becomes a text node, always: there is no markup in this page's scripts.

export const $ = (id) => document.getElementById(id);

export function el(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "class") element.className = value;
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

// Control characters and marks that turn the direction of writing are shown, not obeyed.
const UNSEEN = /[\u0000-\u001f\u007f-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069]/g;
export const shown = (text) =>
  String(text).replace(UNSEEN, (c) => "\\x" + c.codePointAt(0).toString(16).padStart(2, "0"));
export const bdi = (text, properties = {}) => el("bdi", properties, shown(text));
export const percent = (p) => (p === null || p === undefined ? "–" : `${Math.round(100 * p)} %`);
export const count = (n, one, many = one + "s") => `${n.toLocaleString("en")} ${n === 1 ? one : many}`;

export function toast(words, { kind = "", action = null, label = "", seconds = 5 } = {}) {
  const message = el("div", { class: `toast ${kind}` }, el("span", {}, shown(words)));
  if (action) message.append(el("button", { type: "button", onclick: () => (message.remove(), action()) }, label));
  $("toasts").append(message);
  $("toasts").hidePopover(); // shown anew it lies above any dialog
  $("toasts").showPopover();
  while ($("toasts").childElementCount > 3) $("toasts").firstElementChild.remove();
  setTimeout(() => message.remove(), 1000 * seconds);
}
