// Putting the items of a list in order with a pointer. Keys have buttons for it.

/** Pixels that a pointer moves before it drags. */
const THRESHOLD = 6;

/**
 * Lets the items of `list` be dragged by their element with `data-handle`; `onMove(from, to)` tells where one went.
 *
 * While one is dragged the others make room by CSS `order`; the list itself changes once, at the end.
 */
export function letDrag(list, onMove) {
  list.addEventListener("pointerdown", (down) => {
    const item = down.target.closest("[data-handle]")?.closest("li");
    if (!item || down.button !== 0 || list.children.length < 2) return;
    const items = [...list.children];
    const from = items.indexOf(item);
    const slots = items.map((element) => element.getBoundingClientRect());
    let to = from;
    let drags = false;

    const move = (event) => {
      if (event.pointerId !== down.pointerId) return;
      const [x, y] = [event.clientX - down.clientX, event.clientY - down.clientY];
      if (!drags && Math.hypot(x, y) < THRESHOLD) return;
      drags = true;
      item.classList.add("dragging");
      to = nearest(slots, event.clientX, event.clientY);
      const order = items.filter((element) => element !== item);
      order.splice(to, 0, item);
      order.forEach((element, i) => element.style.setProperty("order", i));
      const [home, now] = [slots[from], slots[to]];
      item.style.setProperty("translate", `${x + home.left - now.left}px ${y + home.top - now.top}px`);
    };
    const end = (dropped) => {
      removeEventListener("pointermove", move);
      removeEventListener("pointerup", up);
      removeEventListener("pointercancel", stop);
      removeEventListener("keydown", key, true);
      item.classList.remove("dragging");
      item.style.removeProperty("translate");
      items.forEach((element) => element.style.removeProperty("order"));
      if (drags && dropped && to !== from) onMove(from, to);
    };
    const up = (event) => event.pointerId === down.pointerId && end(true);
    const stop = () => end(false);
    const key = (event) => event.key === "Escape" && end(false);
    addEventListener("pointermove", move);
    addEventListener("pointerup", up);
    addEventListener("pointercancel", stop);
    addEventListener("keydown", key, true);
  });
}

function nearest(slots, x, y) {
  const distances = slots.map((slot) => Math.hypot(x - slot.left - slot.width / 2, y - slot.top - slot.height / 2));
  return distances.indexOf(Math.min(...distances));
}
