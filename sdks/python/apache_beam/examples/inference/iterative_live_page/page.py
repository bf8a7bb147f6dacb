#
# Licensed to the Apache Software Foundation (ASF) under one or more
# contributor license agreements.  See the NOTICE file distributed with
# this work for additional information regarding copyright ownership.
# The ASF licenses this file to You under the Apache License, Version 2.0
# (the "License"); you may not use this file except in compliance with
# the License.  You may obtain a copy of the License at
#
#    http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
#

"""The live page; in a module, since a wheel of Beam carries no HTML files.

It loads nothing from elsewhere, and shows what models write as text only.
"""

__all__ = ['PAGE', 'SCRIPT', 'STYLE']

STYLE = '''
:root {
  color-scheme: light dark;
  --back: #f3f5f8; --card: #ffffff; --line: #dfe4ea; --ink: #18212c;
  --soft: #5f6b7a; --rail: #e8ecf1; --old: #a35a00; --new: #0b6bcb;
  --fresh: #cfe6ff; --bad: #c0262d; --good: #1a7f4b;
}
@media (prefers-color-scheme: dark) {
  :root {
    --back: #0e1319; --card: #171e27; --line: #2a3440; --ink: #e6ebf1;
    --soft: #93a0af; --rail: #252f3b; --old: #f0a548; --new: #5eb0ff;
    --fresh: #1d4468; --bad: #ff7b7b; --good: #5fd39a;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; max-width: 1180px; padding: 28px 24px 48px;
  background: var(--back); color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
}
html { background: var(--back); }
header { display: flex; align-items: flex-start; gap: 16px; }
header div { flex: 1; }
h1 { margin: 0; font-size: 24px; line-height: 1.25; letter-spacing: -.01em; }
header p { margin: 2px 0 0; color: var(--soft); }
.chip {
  border-radius: 99px; padding: 1px 11px; font-size: 13px; font-weight: 600;
  border: 1px solid var(--line); color: var(--soft); white-space: nowrap;
}
#status { padding: 4px 14px; background: var(--card); }
[data-tone=busy] { color: var(--new); border-color: currentColor; }
[data-tone=good] { color: var(--good); border-color: currentColor; }
[data-tone=bad] { color: var(--bad); border-color: currentColor; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 14px; }
#ways {
  position: sticky; top: 0; z-index: 1; padding: 16px 0 14px;
  background: var(--back); border-bottom: 1px solid var(--line);
}
[data-way] { --hue: var(--old); }
[data-way=iterative] { --hue: var(--new); }
.way { border-top: 3px solid var(--hue); padding-top: 8px; }
.way h2 { margin: 0; font-size: 16px; }
.way p { margin: 1px 0; color: var(--soft); font-size: 13px; }
.figure {
  font-size: 34px; font-weight: 650; line-height: 1.15; color: var(--hue);
  font-variant-numeric: tabular-nums; letter-spacing: -.02em;
}
.way .figure { font-size: 46px; }
.figure[data-open] { color: var(--soft); opacity: .55; }
.figure small { font-size: 50%; font-weight: 500; margin-left: .2em; }
section { margin-top: 22px; }
section > h3 {
  margin: 0 0 8px; font-size: 15px; font-weight: 600; overflow-wrap: anywhere;
}
section > h3 span { color: var(--soft); font-weight: 400; margin-right: 6px; }
.lane {
  min-width: 0; padding: 12px 16px 14px;
  background: var(--card); border: 1px solid var(--line); border-radius: 10px;
}
.lane .top { display: flex; align-items: baseline; gap: 10px; }
.lane .top .what { flex: 1; color: var(--soft); font-size: 13px; }
.bar {
  height: 8px; margin: 8px 0 4px; border-radius: 4px; overflow: hidden;
  background: var(--rail);
}
.bar div { height: 100%; width: 0; background: var(--hue); }
.count {
  color: var(--soft); font-size: 13px; font-variant-numeric: tabular-nums;
}
.text {
  margin-top: 8px; height: 9em; overflow-y: auto; scrollbar-width: thin;
  white-space: pre-wrap; overflow-wrap: anywhere;
}
.text .error { color: var(--bad); }
#legend {
  margin: 28px 0 0; padding-top: 14px; border-top: 1px solid var(--line);
  display: grid; grid-template-columns: auto 1fr; gap: 6px 12px;
  align-items: baseline; color: var(--soft); font-size: 13px;
}
#legend dd { margin: 0; }
@media (prefers-reduced-motion: no-preference) {
  .bar div { transition: width .15s linear; }
  .fresh { animation: fade 1.6s ease-out; }
  @keyframes fade { from { background: var(--fresh); } }
}
@media (max-width: 620px) {
  .pair { gap: 8px; } .way .figure { font-size: 32px; }
  .lane { padding: 10px; } .lane .top { flex-wrap: wrap; }
}
'''

SCRIPT = r'''
'use strict';
const NAMES = {one_shot: 'One-shot', iterative: 'Iterative'};
const KINDS = {
  one_shot: 'RunInference(handler): whole results, when a batch is done',
  iterative: 'RunInference(handler, iterative=…): chunks, as they are made',
};
// What the badge of a text says.
const MEANINGS = {
  waiting: 'the model has not been handed the prompt yet',
  generating: 'the model writes',
  stop: 'the model ended its text',
  length: 'the text has as many tokens as --max_tokens allows',
  cancelled: 'a rule of the pipeline ended the text',
  error: 'the model or its server failed; the reason stands in the text',
};
const STATE_TONES = {generating: 'busy', error: 'bad', waiting: ''};
const TONES = {running: 'busy', done: 'good', failed: 'bad'};
const byId = (id) => document.getElementById(id);
let lanes = new Map(), ways = new Map(), limit = 1;

// Text that a model wrote only ever becomes a text node.
function make(parent, tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  parent.append(node);
  return node;
}

function showSeconds(node, seconds, isOpen) {
  node.replaceChildren();
  node.toggleAttribute('data-open', isOpen);
  if (seconds === null) return void node.append('–');
  node.append(seconds.toFixed(seconds < 10 ? 2 : 1));
  make(node, 'small', '', 's');
}

function build(state) {
  limit = state.token_limit;
  lanes = new Map(); ways = new Map();
  byId('about').textContent = Object.values(state.about).join(' · ');
  byId('ways').replaceChildren();
  byId('prompts').replaceChildren();
  for (const way of Object.keys(NAMES)) {
    const box = make(byId('ways'), 'div', 'way');
    box.dataset.way = way;
    make(box, 'h2', '', NAMES[way]);
    make(box, 'p', '', KINDS[way]);
    ways.set(way, {
      figure: make(box, 'div', 'figure'), what: make(box, 'p')});
  }
  state.prompts.forEach((prompt, number) => {
    const section = make(byId('prompts'), 'section');
    const title = make(section, 'h3');
    make(title, 'span', '', number + 1);
    title.append(prompt);
    const pair = make(section, 'div', 'pair');
    for (const way of Object.keys(NAMES)) {
      lanes.set(number + way, buildLane(pair, number, way));
    }
  });
  state.lanes.forEach(update);
  showStatus(state.status);
}

function buildLane(parent, prompt, way) {
  const box = make(parent, 'div', 'lane');
  box.dataset.prompt = prompt;
  box.dataset.way = way;
  const top = make(box, 'div', 'top');
  const lane = {way, box, figure: make(top, 'span', 'figure')};
  make(top, 'span', 'what', 'to the first token');
  lane.chip = make(top, 'span', 'chip');
  lane.bar = make(box, 'div', 'bar');
  lane.bar.setAttribute('role', 'progressbar');
  lane.bar.setAttribute('aria-label', 'tokens');
  lane.bar.setAttribute('aria-valuemax', limit);
  lane.fill = make(lane.bar, 'div');
  lane.count = make(box, 'div', 'count');
  lane.text = make(box, 'div', 'text');
  lane.text.tabIndex = 0;
  return lane;
}

function update(news) {
  const lane = lanes.get(news.prompt + news.way);
  Object.assign(lane, news);
  lane.told = performance.now();
  if (news.added) {
    const text = lane.text;
    const isAtEnd = text.scrollTop + text.clientHeight > text.scrollHeight - 9;
    make(text, 'span', 'fresh', news.added);
    // Follows what grows, unless somebody reads further up.
    if (isAtEnd && news.pieces > 1) text.scrollTop = text.scrollHeight;
  }
  if (news.error) make(lane.text, 'div', 'error', news.error);
  const isDone = lane.finish_reason !== null;
  const state = isDone ? lane.finish_reason :
      lane.elapsed === null ? 'waiting' : 'generating';
  lane.box.dataset.state = state;
  lane.chip.textContent = state;
  lane.chip.title = MEANINGS[state] ?? 'why the text ended';
  lane.chip.dataset.tone = STATE_TONES[state] ?? 'good';
  lane.fill.style.width = Math.min(100, 100 * lane.tokens / limit) + '%';
  lane.bar.setAttribute('aria-valuenow', lane.tokens);
  show();
}

function elapsed(lane) {
  if (lane.elapsed === null || lane.finish_reason !== null) return lane.elapsed;
  return lane.elapsed + (performance.now() - lane.told) / 1000;
}

function show() {
  for (const lane of lanes.values()) {
    if (lane.told === undefined) continue;
    const total = elapsed(lane);
    // Without a token in the end there was no first one.
    const isOver = lane.finish_reason !== null;
    showSeconds(
        lane.figure, lane.first ?? (isOver ? null : total),
        lane.first === null);
    const pieces = lane.pieces === 1 ? 'piece' : 'pieces';
    lane.count.textContent = `${lane.tokens} of ${limit} tokens` +
        (lane.pieces ? ` in ${lane.pieces} ${pieces}` : '') +
        (total === null ? '' : ` · ${total.toFixed(1)} s`);
  }
  for (const [name, way] of ways) {
    const mine = [...lanes.values()].filter((lane) => lane.way === name);
    const first = mine.map((lane) => lane.first ?? elapsed(lane))
        .filter((seconds) => seconds != null).sort((a, b) => a - b);
    const isOpen = mine.some((lane) => lane.first == null);
    showSeconds(
        way.figure, first.length ? median(first) : null, isOpen);
    const done = mine.filter((lane) => lane.finish_reason != null);
    const last = Math.max(0, ...done.map((lane) => lane.elapsed));
    way.what.textContent = 'to the first token, median · ' +
        `${done.length} of ${mine.length} done` +
        (done.length === mine.length ? ` after ${last.toFixed(1)} s` : '');
  }
}

function median(sorted) {
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] :
      (sorted[middle - 1] + sorted[middle]) / 2;
}

function showStatus(status) {
  byId('status').textContent = status;
  byId('status').dataset.tone = TONES[status] ?? '';
  document.body.dataset.status = status;
}

for (const [state, meaning] of Object.entries(MEANINGS)) {
  const chip = make(make(byId('legend'), 'dt'), 'span', 'chip', state);
  chip.dataset.tone = STATE_TONES[state] ?? 'good';
  make(byId('legend'), 'dd', '', meaning);
}
const source = new EventSource('/events');
const on = (name, f) =>
    source.addEventListener(name, (event) => f(JSON.parse(event.data)));
on('snapshot', build);
on('lane', update);
on('status', (news) => showStatus(news.status));
source.onerror = () => {
  const ended = ['done', 'failed'].includes(document.body.dataset.status);
  byId('status').textContent =
      ended ? document.body.dataset.status : 'not connected';
};
setInterval(show, 100);
'''

PAGE = f'''<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Iterative inference, live</title>
<link rel="icon" href="data:,">
<style>{STYLE}</style>
</head>
<body>
<header>
<div><h1>Iterative inference, live</h1><p id="about"></p></div>
<span id="status" class="chip" role="status">connecting</span>
</header>
<main>
<div id="ways" class="pair"></div>
<div id="prompts"></div>
<dl id="legend" aria-label="What the badges say"></dl>
</main>
<script>{SCRIPT}</script>
</body>
</html>
'''
