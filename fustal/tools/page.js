"use strict";
// The page of a video: the play head follows the video, a click on a time line seeks, a slider hides low scores.

const element = (id) => document.getElementById(id);
const all = (selector) => [...document.querySelectorAll(selector)];
const video = document.querySelector("video");
const slider = element("score");
const lines = element("lines");
const inner = document.querySelector(".inner");
const list = document.querySelector("ol");
const bars = all(".bar");
const items = all("li button"); // the number of a caption is the place of its detection here
const STEPS = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 18000, 36000]; // s

/** Takes the place of a video: the same methods and events, without pictures. */
class Clock extends EventTarget {
  paused = true;
  #before = 0; // s, when it was started, or now if it is paused
  #started = 0; // ms
  get currentTime() {
    const since = this.paused ? 0 : (performance.now() - this.#started) / 1000;
    return Math.min(this.#before + since, duration);
  }
  set currentTime(time) {
    this.#before = Math.max(0, Math.min(time, duration));
    this.#started = performance.now();
    this.dispatchEvent(new Event("seeked"));
  }
  play() {
    if (this.currentTime >= duration) this.currentTime = 0;
    this.#started = performance.now();
    this.paused = false;
    this.dispatchEvent(new Event("play"));
  }
  pause() {
    this.#before = this.currentTime;
    this.paused = true;
    this.dispatchEvent(new Event("pause"));
  }
}

const begins = Number(lines.dataset.begins); // s, at which the video's own time begins: in Chromium not always 0
let duration = Number(lines.dataset.duration); // s
let zoom = 1;
let player = null;
let cues = [];
let shown = []; // bars and items whose scores are high enough
let current = null; // the item that the list was moved to

function clock(seconds, digits = 1) {
  const unit = 10 ** digits;
  const whole = Math.round(seconds * unit);
  const s = Math.floor(whole / unit);
  const two = (number) => String(number).padStart(2, "0");
  const minutes = s >= 3600 ? `${Math.floor(s / 3600)}:${two(Math.floor(s / 60) % 60)}` : Math.floor(s / 60);
  return `${minutes}:${two(s % 60)}` + (digits ? `.${whole % unit}` : "");
}

/** Seconds from the beginning of the video. */
function now() {
  return player === video ? Math.max(0, player.currentTime - begins) : player.currentTime;
}

// --- the play head ---------------------------------------------------------------------------------------------------

function draw() {
  const time = now();
  const part = Math.min(time / duration, 1);
  element("head").style.left = `${100 * part}%`;
  element("head").style.setProperty("--part", part);
  element("head").firstChild.textContent = clock(time);
  element("time").textContent = clock(time);
  element("play").textContent = player.paused ? "Play" : "Pause";
  for (const one of shown) one.classList.toggle("now", one.dataset.start <= time && time < one.dataset.end);
  const found = items.filter((item) => item.classList.contains("now"));
  element("now").textContent = [...new Set(found.map((item) => item.dataset.label))].join(", ");
  if (found.length && found.at(-1) !== current) {
    current = found.at(-1);
    list.scrollTop = current.offsetTop - list.offsetTop - list.clientHeight / 2;
  }
}

function follow() {
  draw();
  if (zoom > 1) keepInSight();
  if (player.paused) return;
  if (player !== video && player.currentTime >= duration) player.pause();
  requestAnimationFrame(follow);
}

function keepInSight() {
  const room = lines.clientWidth - (inner.clientWidth - element("heads").clientWidth);
  const place = element("head").offsetLeft - lines.scrollLeft;
  if (place < 0 || place > room) lines.scrollLeft += place - room / 4;
}

function seek(time) {
  player.currentTime = Math.max(0, Math.min(time, duration)) + (player === video ? begins : 0);
  draw();
  if (zoom > 1) keepInSight();
}

function listen(to) {
  player = to;
  player.addEventListener("play", follow);
  for (const name of ["pause", "seeking", "seeked", "timeupdate"]) player.addEventListener(name, draw);
}

function toggle() {
  if (player.paused) player.play();
  else player.pause();
}

// --- what is shown ---------------------------------------------------------------------------------------------------

function choose() {
  const minimum = Number(slider.value);
  const enough = (one) => one.dataset.score === undefined || Number(one.dataset.score) >= minimum;
  shown = [];
  for (const one of [...bars, ...items]) {
    (one.matches("li *") ? one.parentElement : one).hidden = !enough(one);
    one.classList.remove("now");
    if (enough(one)) shown.push(one);
  }
  for (const line of all(".class")) line.hidden = !line.querySelector(".bar:not([hidden])");
  const count = items.filter(enough).length;
  element("value").textContent = minimum.toFixed(2);
  element("count").textContent = `${count} of ${items.length} detections`;
  element("none").hidden = count > 0;
  for (const cue of cues) {
    // Browsers sort captions that begin together by their ends, the longest first: their numbers tell which is which
    const item = items[cue.id - 1];
    const track = video.textTracks[0];
    // Captions of the lowest scores would cover the picture
    const captioned = enough(item) && item.dataset.score >= Number(slider.defaultValue);
    if (captioned && !cue.track) track.addCue(cue);
    if (!captioned && cue.track) track.removeCue(cue);
  }
  draw();
}

function drawTicks() {
  const ticks = element("ticks");
  const step = STEPS.find((one) => (one / duration) * ticks.clientWidth >= 64) ?? STEPS.at(-1);
  const marks = [];
  for (let place = 0; place * step < duration; place += 1) {
    const mark = document.createElement("span");
    mark.className = "tick";
    mark.style.left = `${(100 * place * step) / duration}%`;
    mark.textContent = clock(place * step, step < 1 ? 1 : 0);
    marks.push(mark);
  }
  ticks.replaceChildren(...marks);
}

function zoomBy(factor) {
  zoom = Math.max(1, Math.min(64, zoom * factor));
  inner.style.setProperty("--zoom", zoom);
  drawTicks();
  draw();
  keepInSight();
}

function goTo(item) {
  seek(Number(item.dataset.start));
  element("said").textContent = item.textContent;
}

function goToNext(forward) {
  const time = now();
  const grace = player.paused ? 0.01 : 1; // s: while it plays, P must not find the same detection again
  const chosen = items.filter((item) => shown.includes(item));
  const found = forward
    ? chosen.find((item) => item.dataset.start > time + 0.01)
    : chosen.findLast((item) => item.dataset.start < time - grace);
  if (found) goTo(found);
}

// --- events ----------------------------------------------------------------------------------------------------------

function timeAt(event) {
  const box = element("heads").getBoundingClientRect();
  return ((event.clientX - box.left) / box.width) * duration;
}

lines.addEventListener("click", (event) => {
  if (event.target.closest(".lane")) seek(timeAt(event));
});
lines.addEventListener("pointermove", (event) => {
  if (event.pointerType === "mouse" && event.buttons === 1 && event.target.closest(".lane")) seek(timeAt(event));
});
slider.addEventListener("input", choose);
element("less").addEventListener("click", () => zoomBy(0.5));
element("more").addEventListener("click", () => zoomBy(2));
element("play").addEventListener("click", toggle);
for (const item of items) item.addEventListener("click", () => goTo(item));
for (const button of all("button")) {
  // After a click of the mouse, Space plays the video, and does not press the button again
  button.addEventListener("click", (event) => event.detail > 0 && button.blur());
}
lines.addEventListener("scroll", () => inner.style.setProperty("--scrolled", `${lines.scrollLeft}px`));
new ResizeObserver(drawTicks).observe(lines);

const KEYS = {
  " ": toggle,
  ArrowLeft: (event) => seek(now() - (event.shiftKey ? 0.1 : 1)),
  ArrowRight: (event) => seek(now() + (event.shiftKey ? 0.1 : 1)),
  Home: () => seek(0),
  End: () => seek(duration),
  n: () => goToNext(true),
  p: () => goToNext(false),
  "+": () => zoomBy(2),
  "-": () => zoomBy(0.5),
};

function onKey(event) {
  const action = KEYS[event.key.length > 1 ? event.key : event.key.toLowerCase()];
  if (!action || event.ctrlKey || event.altKey || event.metaKey) return;
  // Space presses a button that has the focus, and arrows move the slider
  if (event.target.matches("button") && event.key === " ") return;
  if (event.target === slider && /^(Arrow|Home|End)/.test(event.key)) return;
  event.preventDefault();
  event.stopPropagation(); // to the video, which has keys of its own
  action(event);
}
document.addEventListener("keydown", onKey, { capture: true });

// --- the video, or the clock -----------------------------------------------------------------------------------------

function withoutVideo() {
  video.hidden = true;
  element("unplayable").hidden = false;
  element("clock").hidden = false;
  listen(new Clock());
  draw();
}

function withDuration() {
  // A video may be longer than its features; of a recording by a browser the duration is not known.
  if (Number.isFinite(video.duration) && video.duration - begins > duration) {
    duration = video.duration - begins;
    inner.style.setProperty("--duration", duration);
    drawTicks();
  }
}

if (video) {
  const captions = video.querySelector("track");
  const haveCues = () => {
    cues = [...captions.track.cues];
    choose();
  };
  listen(video);
  video.addEventListener("error", withoutVideo);
  video.addEventListener("loadedmetadata", withDuration);
  captions.addEventListener("load", haveCues);
  // The events may have passed before this script began
  if (video.error) withoutVideo();
  if (video.readyState > 0) withDuration();
  if (captions.readyState === 2) haveCues();
} else {
  listen(new Clock());
}
drawTicks();
choose();
