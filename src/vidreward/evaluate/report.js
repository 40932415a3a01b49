"use strict";
// Player and curve of each episode move together. All text from the data goes through textContent or attributes.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const list = document.getElementById("episodes");
  const SVG = "http://www.w3.org/2000/svg";
  const WIDTH = 780, LEFT = 62, RIGHT = 54, TOP = 22, HEIGHT = 190, REWARD = 66, GAP = 14;
  const INNER = WIDTH - LEFT - RIGHT;

  const make = (name, attributes = {}, ...children) => {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.append(...children);
    return element;
  };
  const draw = (name, attributes = {}, text) => {
    const element = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const short = (value) => {
    if (value === null || value === undefined) return "-";
    const size = Math.abs(value);
    return size !== 0 && (size >= 1e5 || size < 1e-3) ? value.toExponential(2) : String(Number(value.toPrecision(4)));
  };

  const ticks = (low, high, count) => {
    const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((value) => value >= rough);
    const found = [];
    for (let n = Math.ceil(low / step - 1e-9); n * step <= high + 1e-9 * step; n++) found.push(n * step);
    return found;
  };
  const extent = (values, forced = []) => {
    const real = values.filter((value) => value !== null).concat(forced);
    let low = Infinity, high = -Infinity;
    for (const value of real) { low = Math.min(low, value); high = Math.max(high, value); }
    if (low === high) { low -= 0.5; high += 0.5; }
    const margin = 0.05 * (high - low);
    return [low - margin, high + margin];
  };
  const path = (values, x, y) => {
    let line = "", pen = "M";
    values.forEach((value, place) => {
      if (value === null) { pen = "M"; return; }
      line += `${pen}${x(place).toFixed(1)} ${y(value).toFixed(1)}`;
      pen = "L";
    });
    return line;
  };

  const drawCurve = (episode) => {
    const last = Math.max(1, episode.numFrames - 1);
    const filmHeight = INNER / episode.filmPictures * episode.filmRatio;
    const bottom = TOP + HEIGHT + (episode.rewards ? GAP + REWARD : 0);
    const total = bottom + 22 + filmHeight + 18;
    const svg = draw("svg", { viewBox: `0 0 ${WIDTH} ${total.toFixed(0)}`, "aria-hidden": "true" });
    const x = (frame) => LEFT + INNER * frame / last;
    const place = (index) => x(Math.min(last, index * episode.stride));
    const panel = (values, top, height, name, forced) => {
      const [low, high] = extent(values, forced);
      const y = (value) => top + height * (high - value) / (high - low);
      for (const value of ticks(low, high, height / 40)) {
        svg.append(draw("line", { class: "grid", x1: LEFT, x2: LEFT + INNER, y1: y(value), y2: y(value) }));
        svg.append(draw("text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, short(value)));
      }
      svg.append(draw("rect", { class: "frame", x: LEFT, y: top, width: INNER, height }));
      svg.append(draw("path", { class: name, d: path(values, place, y) }));
      return y;
    };
    const scoreY = panel(episode.scores, TOP, HEIGHT, "score");
    svg.append(draw("text", { class: "score", x: LEFT, y: TOP - 8 }, episode.scoreName));
    if (episode.progress) {
      const y = (value) => TOP + HEIGHT * (1.05 - value) / 1.1;
      svg.append(draw("path", { class: "progress", d: path(episode.progress, place, y) }));
      for (const value of [0, 0.5, 1]) svg.append(draw("text", { class: "progress", x: LEFT + INNER + 6, y: y(value) + 4 }, short(value)));
      svg.append(draw("text", { class: "progress", x: LEFT + INNER, y: TOP - 8, "text-anchor": "end" }, "true progress (right axis, dashed)"));
    }
    if (episode.rewards) {
      panel(episode.rewards, TOP + HEIGHT + GAP, REWARD, "reward", [0]);
      svg.append(draw("text", { class: "reward", x: LEFT + INNER + 6, y: TOP + HEIGHT + GAP + 12 }, "reward"));
    }
    for (const second of ticks(0, last / episode.fps, 8)) {
      svg.append(draw("text", { x: x(second * episode.fps), y: bottom + 15, "text-anchor": "middle" }, `${short(second)} s`));
    }
    svg.append(draw("image", {
      href: `data:image/jpeg;base64,${episode.film}`, x: LEFT, y: bottom + 24, width: INNER, height: filmHeight,
      preserveAspectRatio: "none",
    }));
    for (let picture = 1; picture < episode.filmPictures; picture++) {
      const edge = LEFT + INNER * picture / episode.filmPictures;
      svg.append(draw("line", { class: "gap", x1: edge, x2: edge, y1: bottom + 24, y2: bottom + 24 + filmHeight }));
    }
    const cursor = draw("line", { class: "cursor", y1: TOP, y2: bottom + 24 + filmHeight });
    const dot = draw("circle", { class: "dot", r: 4.5 });
    svg.append(cursor, dot);
    const point = (frame) => {
      const index = Math.min(episode.scores.length - 1, Math.round(frame / episode.stride));
      cursor.setAttribute("x1", x(frame)); cursor.setAttribute("x2", x(frame));
      dot.setAttribute("cx", x(frame)); dot.setAttribute("cy", scoreY(episode.scores[index]));
      return index;
    };
    const frameAt = (clientX) => {
      const box = svg.getBoundingClientRect();
      const share = ((clientX - box.left) / box.width * WIDTH - LEFT) / INNER;
      return Math.round(Math.min(1, Math.max(0, share)) * (episode.numFrames - 1));
    };
    return { svg, point, frameAt };
  };

  const makeScreen = (episode, film) => {
    if (episode.video !== null) {
      const bytes = Uint8Array.from(atob(episode.video), (letter) => letter.charCodeAt(0));
      const video = make("video", { playsinline: "", preload: "auto" });
      video.muted = true;
      video.src = URL.createObjectURL(new Blob([bytes], { type: "video/mp4" }));
      return video;
    }
    const canvas = make("canvas");
    canvas.width = film.naturalWidth / episode.filmPictures; canvas.height = film.naturalHeight;
    return canvas;
  };

  const build = (card, episode, film) => {
    episode.filmRatio = film.naturalHeight / (film.naturalWidth / episode.filmPictures);
    const { svg, point, frameAt } = drawCurve(episode);
    const screen = makeScreen(episode, film);
    const isVideo = screen instanceof HTMLVideoElement;
    const button = make("button", { type: "button" }, "Play");
    const readout = make("span", { class: "readout" });
    const curve = make("div", {
      class: "curve", tabindex: "0", role: "slider", "aria-label": `Frame of ${episode.id}`, "aria-valuemin": "0",
      "aria-valuemax": String(episode.numFrames - 1),
    });
    curve.append(svg);
    let now = 0;
    const show = (frame) => {
      now = frame;
      const index = point(frame);
      const parts = [`frame ${frame}`, `${(frame / episode.fps).toFixed(2)} s`, `score ${short(episode.scores[index])}`];
      if (episode.rewards) parts.push(`reward ${short(episode.rewards[index])}`);
      if (episode.progress) parts.push(`progress ${short(episode.progress[index])}`);
      readout.textContent = parts.join(" \u00b7 ");
      curve.setAttribute("aria-valuenow", String(frame));
      curve.setAttribute("aria-valuetext", readout.textContent);
      if (!isVideo) {
        const picture = Math.min(episode.filmPictures - 1, Math.floor(frame / episode.numFrames * episode.filmPictures));
        screen.getContext("2d").drawImage(film, -picture * screen.width, 0);
      }
    };
    // One seek at a time: a browser that is told to seek or play while it still seeks can stall.
    let target = null, playNext = false;
    const settle = () => {
      if (screen.seeking) return;
      if (target !== null) {
        const time = (target + 0.5) / episode.fps;
        target = null;
        screen.currentTime = time;
      } else if (playNext) {
        playNext = false;
        screen.play();
      }
    };
    const seek = (frame) => {
      const wanted = Math.min(episode.numFrames - 1, Math.max(0, frame));
      if (isVideo) { screen.pause(); playNext = false; target = wanted; settle(); }
      show(wanted);
    };
    const follow = () => {
      show(Math.min(episode.numFrames - 1, Math.floor(screen.currentTime * episode.fps + 0.01)));
      if (!screen.paused && !screen.ended) requestAnimationFrame(follow);
    };
    const toggle = () => {
      if (!screen.paused) { screen.pause(); return; }
      if (now >= episode.numFrames - 1) seek(0);
      playNext = true;
      settle();
    };
    if (isVideo) {
      screen.addEventListener("play", () => { button.textContent = "Pause"; follow(); });
      screen.addEventListener("seeked", settle);
      screen.addEventListener("ended", follow);
      screen.addEventListener("pause", () => { button.textContent = "Play"; });
      screen.addEventListener("loadeddata", () => { card.dataset.video = "ready"; });
      screen.addEventListener("error", () => { readout.textContent = "This browser cannot play H.264 video."; });
      screen.addEventListener("click", toggle);
      button.addEventListener("click", toggle);
    }
    curve.addEventListener("pointerdown", (event) => { curve.setPointerCapture(event.pointerId); seek(frameAt(event.clientX)); });
    curve.addEventListener("pointermove", (event) => { if (event.buttons & 1) seek(frameAt(event.clientX)); });
    curve.addEventListener("keydown", (event) => {
      const step = event.shiftKey ? 10 : 1;
      const moves = { ArrowLeft: now - step, ArrowRight: now + step, Home: 0, End: episode.numFrames - 1 };
      if (event.key in moves) { seek(moves[event.key]); event.preventDefault(); }
      if (event.key === " " && isVideo) { toggle(); event.preventDefault(); }
    });
    const left = make("div", {}, make("div", { class: "screen" }, screen));
    if (isVideo) left.append(make("div", { class: "buttons" }, button));
    else left.append(make("small", {}, "Pictures of the film strip: the video was left out to keep this file small."));
    left.append(readout);
    if (episode.goal !== null) {
      const goal = make("img", { src: `data:image/jpeg;base64,${episode.goal}`, alt: "goal image" });
      left.append(make("figure", {}, goal, make("figcaption", {}, "goal")));
    }
    card.append(make("div", { class: "body" }, left, curve));
    show(0);
    card.dataset.built = "yes";
  };

  const label = (episode) => episode.success === true ? "success" : episode.success === false ? "failure" : "not known";
  const cards = data.episodes.map((episode) => {
    const outcome = make("span", { class: `chip ${episode.success === true ? "good" : episode.success === false ? "bad" : ""}` });
    outcome.textContent = episode.failure ? `${label(episode)}: ${episode.failure}` : label(episode);
    const head = make("div", { class: "head" }, make("b", {}, episode.id));
    if (episode.task) head.append(make("span", { class: "chip" }, episode.task));
    head.append(outcome, make("span", { class: "why" }, episode.why));
    const card = make("article", { class: "card episode" }, head);
    card.episode = episode;
    return card;
  });

  const watcher = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      watcher.unobserve(target);
      const film = new Image();
      film.addEventListener("load", () => build(target, target.episode, film));
      film.src = `data:image/jpeg;base64,${target.episode.film}`;
    }
  }, { rootMargin: "600px" });

  const orders = {
    worst: (a, b) => b.trouble - a.trouble,
    best: (a, b) => a.trouble - b.trouble,
    last: (a, b) => b.scores.at(-1) - a.scores.at(-1),
    name: (a, b) => a.id.localeCompare(b.id),
    longest: (a, b) => b.numFrames - a.numFrames,
  };
  const control = (name) => document.getElementById(name);
  const tasks = [...new Set(data.episodes.map((episode) => episode.task).filter((task) => task !== null))].sort();
  tasks.forEach((task, number) => control("task").append(make("option", { value: String(number) }, task)));
  const arrange = () => {
    const task = control("task").value, outcome = control("outcome").value, words = control("search").value.toLowerCase();
    let shown = 0;
    for (const card of cards) {
      const episode = card.episode;
      const text = [episode.id, episode.task, episode.failure].filter(Boolean).join(" ").toLowerCase();
      card.hidden = (task !== "" && episode.task !== tasks[Number(task)]) || (outcome !== "" && label(episode) !== outcome)
        || !text.includes(words);
      shown += card.hidden ? 0 : 1;
    }
    cards.sort((a, b) => orders[control("order").value](a.episode, b.episode));
    list.append(...cards);
    control("count").textContent = `${shown} of ${cards.length} episodes`;
  };
  for (const name of ["task", "outcome", "order", "search"]) control(name).addEventListener("input", arrange);
  arrange();
  cards.forEach((card) => watcher.observe(card));
  document.documentElement.dataset.ready = "yes";
})();
