// One picture, large, with what is known of it. new Zoom(dialog, buttons): buttons are made anew for each use.

import { details, image } from "./card.js";
import { el } from "./dom.js";

export class Zoom {
  constructor(dialog, { step, buttons }) {
    this.dialog = dialog;
    this.frame = el("div", { class: "frame", tabindex: "0", "aria-label": "Click: full size" });
    this.side = el("aside", {});
    dialog.append(
      el("button", { type: "button", class: "step back", "aria-label": "Previous", onclick: () => step(-1) }, "‹"),
      this.frame,
      el("button", { type: "button", class: "step on", "aria-label": "Next", onclick: () => step(1) }, "›"),
      el("div", { class: "panel" }, this.side, el("div", { class: "actions", role: "toolbar", "aria-label": "What is it?" },
        ...buttons())),
      el("button", { type: "button", class: "close quiet", "aria-label": "Close", onclick: () => dialog.close() }, "✕"),
    );
    this.frame.addEventListener("click", () => this.frame.classList.toggle("full"));
  }

  get open() {
    return this.dialog.open;
  }

  toggle(row) {
    if (this.open) this.dialog.close();
    else if (row) {
      this.dialog.showModal();
      this.show(row);
      this.frame.focus();
    }
  }

  show(row) {
    if (!this.open || !row) return;
    if (this.sample !== row.sample_id) {
      this.frame.classList.remove("full");
      this.frame.replaceChildren(image(row, "large"));
      this.sample = row.sample_id;
    }
    this.side.replaceChildren(details(row));
  }
}
