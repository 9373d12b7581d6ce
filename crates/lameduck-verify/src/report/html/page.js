'use strict';
(() => {
  const GLYPHS = JSON.parse(document.getElementById('glyphs').textContent)
    .map(([name, words, kind, path, fill]) => ({ name, words, kind, fill, path: new Path2D(path) }));
  const ANSWERED = 0;
  const WORDS_OF_END = { open: 'open at the end', refused: 'refused', server: 'closed by the server', reset: 'reset', tester: 'closed by the tester' };
  const FONT = 'system-ui, -apple-system, "Segoe UI", "Noto Sans", "DejaVu Sans", sans-serif';

  // An error must be seen by whoever looks for one.
  addEventListener('error', event => { document.documentElement.dataset.error = event.message; });

  const colours = () => {
    const style = getComputedStyle(document.documentElement);
    const of = name => style.getPropertyValue('--' + name).trim();
    return Object.fromEntries(['paper', 'card', 'ink', 'soft', 'line', 'faint', 'answered', 'answered-2', 'unsent', 'lost',
      'wait', 'bar', 'bar-edge', 'span', 'focus', 'warn'].map(name => [name, of(name)]));
  };

  const time = (micros, step = 0) => {
    const ms = micros / 1000;
    if (step && step < 1000) return (ms).toFixed(step < 10 ? 3 : step < 100 ? 2 : 1) + ' ms';
    if (Math.abs(ms) < 1000 && (!step || step < 1e6)) return (ms < 10 && !step ? ms.toFixed(2) : +ms.toFixed(1)) + ' ms';
    const digits = step ? Math.max(0, Math.ceil(-Math.log10(step / 1e6))) : 3;
    return (ms / 1000).toFixed(digits) + ' s';
  };

  const read = text => {
    const raw = JSON.parse(text);
    const connections = raw.connections.map(([label, opened, closed, end, numbers], place) => {
      const requests = [];
      let before = opened;
      for (let at = 0; at < numbers.length; at += 7) {
        const sent = before + numbers[at];
        before = sent;
        requests.push({
          sent, first: numbers[at + 1] < 0 ? null : sent + numbers[at + 1], ended: sent + numbers[at + 2], fate: numbers[at + 3],
          status: numbers[at + 4], generation: numbers[at + 5], late: numbers[at + 6], place,
        });
      }
      return { label, opened, closed: closed < 0 ? null : closed, end, requests, place };
    });
    return { ...raw, connections };
  };

  // Connections that follow each other under one name share a row: a client that connects anew for each request.
  const rowsOf = trace => {
    const rows = [];
    const free = new Map();
    for (const connection of trace.connections) {
      const until = connection.closed ?? trace.length;
      const known = free.get(connection.label) ?? [];
      let row = known.find(row => row.until <= connection.opened);
      if (!row) {
        row = { label: connection.label, connections: [], until: 0 };
        known.push(row);
        free.set(connection.label, known);
        rows.push(row);
      }
      row.until = Math.max(until, connection.opened + 1);
      row.connections.push(connection);
    }
    // By name, names in the order of their first connection, and 9 before 10.
    const kinds = new Map();
    for (const row of rows) {
      const [, words, number] = row.label.match(/^(.*?)(\d*)$/);
      if (!kinds.has(words)) kinds.set(words, kinds.size);
      row.order = [kinds.get(words), Number(number)];
    }
    rows.sort(({ order: [a, b] }, { order: [c, d] }) => a - c || b - d);
    return rows;
  };

  class Timeline {
    constructor(figure) {
      this.figure = figure;
      this.canvas = figure.querySelector('canvas');
      this.told = figure.querySelector('.told');
      this.trace = read(figure.querySelector('script.trace').textContent);
      this.rows = rowsOf(this.trace);
      this.length = Math.max(this.trace.length, 1);
      this.view = [0, this.length];
      this.selected = null;
      this.stops = this.stopsOf();
      this.listen();
      this.draw();
    }

    // What the keys go through: what was not answered, or, where all was, the marks.
    stopsOf() {
      const requests = this.trace.connections.flatMap(connection => connection.requests);
      const lost = requests.filter(request => GLYPHS[request.fate].kind === 'lost');
      const stops = lost.length ? lost.map(request => ({ at: request.ended, request }))
        : this.trace.marks.map(([at, , text]) => ({ at, text }));
      return stops.sort((one, other) => one.at - other.at);
    }

    layout() {
      const width = Math.max(280, this.canvas.clientWidth);
      const gutter = width < 620 ? 62 : 118;
      const rows = this.rows.length;
      const row = rows <= 12 ? 24 : rows <= 32 ? 15 : rows <= 70 ? 9 : rows <= 160 ? 5 : 2.5;
      const flags = this.flags(gutter, width);
      const top = 8 + flags.levels * 17;
      const box = { width, gutter, right: width - 14, row, flags, spans: top, axis: top + (this.trace.spans.length ? 20 : 2) };
      let y = box.axis + 24;
      const track = (name, height, wanted) => { if (wanted) { box[name] = { y, height }; y += height + 14; } };
      track('latency', 84, this.trace.latency.length);
      track('rate', 34, this.trace.latency.length);
      track('queue', 40, this.trace.queue.some(([, waiting]) => waiting > 0) || this.trace.queue.length > 1);
      track('connections', Math.max(rows, 1) * row, rows);
      box.height = y + 2;
      return box;
    }

    x(at, box) { return box.gutter + (at - this.view[0]) / (this.view[1] - this.view[0]) * (box.right - box.gutter); }
    at(x, box) { return this.view[0] + (x - box.gutter) / (box.right - box.gutter) * (this.view[1] - this.view[0]); }

    // Where the words of the marks stand: as many rows as they need, up to four; the others have a line alone.
    flags(gutter, width) {
      const context = this.canvas.getContext('2d');
      context.font = '600 11px ' + FONT;
      const box = { gutter, right: width - 14 };
      const ends = [];
      const placed = [];
      let hidden = 0;
      for (const [at, kind, text] of this.trace.marks) {
        if (at < this.view[0] || at > this.view[1]) continue;
        const wide = context.measureText(text).width + 22;
        let x = this.x(at, box);
        const flip = x + wide > width;
        const from = flip ? x - wide : x;
        let level = 0;
        while (level < 4 && (ends[level] ?? -1) > from) level++;
        if (level === 4 || from < 0) { placed.push({ at, kind, x, level: -1 }); hidden++; continue; }
        ends[level] = from + wide + 4;
        placed.push({ at, kind, text, x, level, flip });
      }
      return { placed, hidden, levels: Math.max(1, ends.length) };
    }

    draw() {
      const box = this.box = this.layout();
      const scale = Math.min(3, devicePixelRatio || 1);
      const { canvas } = this;
      canvas.style.height = box.height + 'px';
      canvas.width = Math.round(box.width * scale);
      canvas.height = Math.round(box.height * scale);
      const context = this.context = canvas.getContext('2d');
      context.setTransform(scale, 0, 0, scale, 0, 0);
      context.textBaseline = 'middle';
      this.colour = colours();
      this.drawn = { connections: 0, requests: 0, marks: 0, spans: 0, queue: 0, latency: 0 };
      this.drawSpans();
      this.drawAxis();
      if (box.latency) { this.drawLatency(); this.drawRate(); }
      if (box.queue) this.drawQueue();
      if (box.connections) this.drawConnections();
      this.drawMarks();
      this.drawSelected();
      if (!box.connections && !box.latency && !box.queue) this.name('nothing was sent', box.axis + 18, 12);
      for (const [name, count] of Object.entries(this.drawn)) this.figure.dataset[name] = count;
    }

    name(text, y, height, more) {
      const { context, colour, box } = this;
      context.textAlign = 'left';
      context.fillStyle = colour.ink;
      context.font = '600 11px ' + FONT;
      context.fillText(text, 0, y + (more ? height / 2 - 7 : height / 2), box.gutter - 6);
      if (more) {
        context.fillStyle = colour.soft;
        context.font = '10.5px ' + FONT;
        context.fillText(more, 0, y + height / 2 + 7, box.gutter - 6);
      }
    }

    clip(y, height, body) {
      const { context, box } = this;
      context.save();
      context.beginPath();
      context.rect(box.gutter, y, box.right - box.gutter + 7, height);
      context.clip();
      body();
      context.restore();
    }

    drawSpans() {
      const { context, colour, box } = this;
      this.trace.spans.forEach(([from, to, label], place) => {
        if (to < this.view[0] || from > this.view[1]) return;
        const left = Math.max(box.gutter, this.x(from, box));
        const right = Math.min(box.right, this.x(to, box));
        this.drawn.spans++;
        if (place % 2 === 0) {
          context.fillStyle = colour.span;
          context.fillRect(left, box.spans, Math.max(1, right - left), box.height - box.spans - 6);
        }
        context.strokeStyle = colour.line;
        context.lineWidth = 1;
        context.beginPath();
        context.moveTo(left + .5, box.spans + 3); context.lineTo(left + .5, box.spans + 9);
        context.lineTo(right - .5, box.spans + 9); context.lineTo(right - .5, box.spans + 3);
        context.stroke();
        context.font = 'italic 11px ' + FONT;
        const wide = context.measureText(label).width + 12;
        if (wide < right - left) {
          context.fillStyle = place % 2 === 0 ? colour.span : colour.card;
          context.fillRect((left + right - wide) / 2, box.spans + 1, wide, 16);
          context.fillStyle = colour.soft;
          context.textAlign = 'center';
          context.fillText(label, (left + right) / 2, box.spans + 9);
        }
      });
    }

    drawAxis() {
      const { context, colour, box } = this;
      const span = this.view[1] - this.view[0];
      const wanted = Math.max(2, (box.right - box.gutter) / 110);
      const rough = span / wanted;
      const power = 10 ** Math.floor(Math.log10(rough));
      const step = [1, 2, 5, 10].map(factor => factor * power).find(size => size >= rough);
      context.font = '11px ' + FONT;
      context.textAlign = 'center';
      context.lineWidth = 1;
      for (let at = Math.ceil(this.view[0] / step) * step; at <= this.view[1]; at += step) {
        const x = Math.round(this.x(at, box)) + .5;
        context.strokeStyle = colour.line;
        context.globalAlpha = .55;
        context.beginPath(); context.moveTo(x, box.axis + 16); context.lineTo(x, box.height - 6); context.stroke();
        context.globalAlpha = 1;
        context.fillStyle = colour.soft;
        const half = context.measureText(time(at, step)).width / 2;
        context.fillText(time(at, step), Math.min(x, box.width - half), box.axis + 8);
      }
    }

    drawLatency() {
      const { context, colour, box } = this;
      const { y, height } = box.latency;
      const slots = this.trace.latency;
      const low = Math.max(1, Math.min(...slots.map(slot => slot[3] || 1)));
      const high = Math.max(low * 10, ...slots.map(slot => slot[5]));
      const from = Math.floor(Math.log10(low)), to = Math.ceil(Math.log10(high));
      const up = value => y + height - (Math.log10(Math.max(value, 10 ** from)) - from) / (to - from) * height;
      this.name('latency', y, height, 'p50 · p99 · slowest');
      context.font = '10px ' + FONT;
      for (let power = from; power <= to; power++) {
        const line = Math.round(up(10 ** power)) + .5;
        context.strokeStyle = colour.line;
        context.globalAlpha = .5;
        context.beginPath(); context.moveTo(box.gutter, line); context.lineTo(box.right, line); context.stroke();
        context.globalAlpha = 1;
        if (power < to || to - from < 4) {
          context.textAlign = 'right';
          context.fillStyle = colour.soft;
          const words = power < 3 ? 10 ** power + ' µs' : power < 6 ? 10 ** (power - 3) + ' ms' : 10 ** (power - 6) + ' s';
          context.fillText(words, box.right - 2, line - 6);
        }
      }
      this.clip(y - 4, height + 8, () => {
        const middle = slot => this.x((slot[0] + slot[1]) / 2, box);
        // The band between the half and the slowest hundredth, then the two lines, then the slowest as ticks.
        const stretches = [];
        for (const slot of slots) {
          const last = stretches.at(-1);
          if (last && last.at(-1)[1] === slot[0]) last.push(slot); else stretches.push([slot]);
        }
        for (const stretch of stretches) {
          context.fillStyle = colour.answered;
          context.globalAlpha = .16;
          context.beginPath();
          stretch.forEach(slot => context.lineTo(middle(slot), up(slot[4])));
          stretch.toReversed().forEach(slot => context.lineTo(middle(slot), up(slot[3])));
          context.fill();
          context.globalAlpha = 1;
          context.strokeStyle = colour.answered;
          for (const [column, dash, wide] of [[3, [], 2], [4, [4, 3], 1.2]]) {
            context.setLineDash(dash);
            context.lineWidth = wide;
            context.beginPath();
            stretch.forEach(slot => context.lineTo(middle(slot), up(slot[column])));
            if (stretch.length === 1) context.lineTo(middle(stretch[0]) + 2, up(stretch[0][column]));
            context.stroke();
          }
          context.setLineDash([]);
        }
        context.fillStyle = colour.ink;
        for (const slot of slots) { context.fillRect(middle(slot) - 1.5, up(slot[5]) - .75, 3, 1.5); this.drawn.latency++; }
      });
    }

    drawRate() {
      const { context, colour, box } = this;
      const { y, height } = box.rate;
      const rate = slot => slot[2] / (slot[1] - slot[0]) * 1e6;
      // The last stretch of time is seldom whole, so it is no measure of the highest.
      const high = Math.max(1, ...this.trace.latency.map(rate));
      this.name('answers', y, height, Math.round(high).toLocaleString('en') + '/s at most');
      this.clip(y, height, () => {
        context.fillStyle = colour.answered;
        context.globalAlpha = .55;
        for (const slot of this.trace.latency) {
          const left = this.x(slot[0], box), right = this.x(slot[1], box);
          const tall = rate(slot) / high * height;
          context.fillRect(left, y + height - tall, Math.max(.7, right - left - (right - left > 4 ? 1 : 0)), tall);
        }
        context.globalAlpha = 1;
      });
    }

    drawQueue() {
      const { context, colour, box } = this;
      const { y, height } = box.queue;
      const samples = this.trace.queue;
      const high = Math.max(1, ...samples.map(sample => sample[1]));
      const most = Math.max(0, ...samples.map(sample => sample[2]));
      this.name('accept queue', y, height, high + (most ? ' of ' + most : '') + ' at most');
      this.clip(y, height + 1, () => {
        context.beginPath();
        context.moveTo(this.x(samples[0][0], box), y + height);
        samples.forEach(([at, waiting], place) => {
          const x = this.x(at, box);
          if (place) context.lineTo(x, y + height - samples[place - 1][1] / high * height);
          context.lineTo(x, y + height - waiting / high * height);
          this.drawn.queue++;
        });
        context.strokeStyle = colour.wait;
        context.lineWidth = 1.3;
        context.stroke();
        context.lineTo(this.x(samples.at(-1)[0], box), y + height);
        context.closePath();
        context.fillStyle = colour.wait;
        context.globalAlpha = .25;
        context.fill();
        context.globalAlpha = 1;
      });
    }

    drawConnections() {
      const { context, colour, box } = this;
      const { y, height } = box.connections;
      this.nameRows();
      const loud = [];
      this.clip(y - 7, height + 14, () => {
        this.rows.forEach((row, place) => {
          const top = y + place * box.row;
          for (const connection of row.connections) this.drawBar(connection, top);
        });
        this.rows.forEach((row, place) => {
          const middle = y + (place + .5) * box.row;
          for (const connection of row.connections) {
            for (const request of connection.requests) {
              if (request.fate === ANSWERED) this.drawAnswered(request, middle); else loud.push([request, middle]);
            }
          }
        });
        // What was lost is drawn last, above everything, and never smaller than one can see.
        loud.sort(([one], [other]) => (GLYPHS[one.fate].kind === 'lost') - (GLYPHS[other.fate].kind === 'lost'));
        for (const [request, middle] of loud) this.drawGlyph(request, middle);
      });
    }

    nameRows() {
      const { context, colour, box } = this;
      const { y, height } = box.connections;
      context.textAlign = 'left';
      if (box.row >= 13) {
        context.font = '11px ' + FONT;
        context.fillStyle = colour.soft;
        this.rows.forEach((row, place) => context.fillText(row.label, 0, y + (place + .5) * box.row, box.gutter - 8));
        return;
      }
      // Too many to name: neighbours with the same words share a bracket.
      const words = label => label.replace(/\s*\d+$/, '');
      let from = 0;
      for (let place = 1; place <= this.rows.length; place++) {
        if (place < this.rows.length && words(this.rows[place].label) === words(this.rows[from].label)) continue;
        const top = y + from * box.row, tall = (place - from) * box.row;
        context.strokeStyle = colour.line;
        context.beginPath(); context.moveTo(box.gutter - 3.5, top + 1); context.lineTo(box.gutter - 3.5, top + tall - 1); context.stroke();
        if (tall >= 11) this.name(words(this.rows[from].label), top, Math.min(tall, height), tall > 26 ? '× ' + (place - from) : '');
        from = place;
      }
    }

    drawBar(connection, top) {
      const { context, colour, box } = this;
      const left = this.x(connection.opened, box);
      const right = this.x(connection.closed ?? this.length, box);
      this.drawn.connections++;
      if (right < box.gutter || left > box.right || connection.end === 'refused') return;
      const tall = box.row >= 9 ? box.row * .62 : box.row * .8;
      const wide = Math.max(1, right - left);
      context.fillStyle = colour.bar;
      context.fillRect(left, top + (box.row - tall) / 2, wide, tall);
      if (box.row >= 5) {
        context.fillStyle = colour['bar-edge'];
        context.fillRect(left, top + (box.row - tall) / 2, 1, tall);
        if (connection.closed !== null) {
          // A reset ends in a hard edge of its own colour, an orderly close in a line.
          context.fillStyle = connection.end === 'reset' ? colour.lost : colour.soft;
          context.fillRect(right - (connection.end === 'reset' ? 2.5 : 1), top + 1, connection.end === 'reset' ? 2.5 : 1, box.row - 2);
        }
      }
    }

    drawAnswered(request, middle) {
      const { context, colour, box } = this;
      this.drawn.requests++;
      const left = this.x(request.sent, box), right = this.x(request.ended, box);
      if (right < box.gutter || left > box.right) return;
      const tall = box.row >= 15 ? 7 : box.row >= 9 ? 4.5 : Math.max(1.5, box.row * .6);
      const wide = right - left;
      context.fillStyle = request.generation % 2 === 1 ? colour['answered-2'] : colour.answered;
      context.globalAlpha = wide < 1.5 ? .75 : 1;
      if (wide >= 5 && request.first !== null) {
        // Waiting is pale, the answer's bytes are full.
        const first = Math.max(left, this.x(request.first, box));
        context.globalAlpha = .45;
        context.fillRect(left, middle - tall / 2, first - left, tall);
        context.globalAlpha = 1;
        context.fillRect(first, middle - tall / 2, Math.max(1.5, right - first), tall);
      } else {
        context.fillRect(left, middle - tall / 2, Math.max(1.2, wide), tall);
      }
      context.globalAlpha = 1;
    }

    drawGlyph(request, middle) {
      const { context, colour, box } = this;
      this.drawn.requests++;
      const glyph = GLYPHS[request.fate];
      const left = this.x(request.sent, box), right = this.x(request.ended, box);
      if (right < box.gutter || left > box.right + 6) return;
      const shade = colour[glyph.kind];
      if (right - left > 8) {
        context.strokeStyle = shade;
        context.lineWidth = 1.5;
        context.globalAlpha = .7;
        context.beginPath(); context.moveTo(left, middle); context.lineTo(right, middle); context.stroke();
        context.globalAlpha = 1;
      }
      const size = glyph.kind === 'lost' ? Math.max(9, Math.min(12, box.row)) : Math.max(5, Math.min(10, box.row));
      context.save();
      context.translate(right - size / 2, middle - size / 2);
      context.scale(size / 12, size / 12);
      context.lineCap = context.lineJoin = 'round';
      if (glyph.kind === 'lost') {
        // A rim of paper keeps marks apart that lie on each other.
        context.strokeStyle = colour.card;
        context.lineWidth = glyph.fill ? 3 : 5;
        context.stroke(glyph.path);
      }
      context.strokeStyle = context.fillStyle = shade;
      context.lineWidth = 2.2;
      if (glyph.fill) context.fill(glyph.path); else context.stroke(glyph.path);
      context.restore();
    }

    drawMarks() {
      const { context, colour, box } = this;
      const style = {
        action: { dash: [], wide: 1.8, shade: colour.ink, sign: '▼' }, process: { dash: [7, 3], wide: 1.3, shade: colour.ink, sign: '■' },
        phase: { dash: [3, 3], wide: 1.2, shade: colour.soft, sign: '◆' }, note: { dash: [1, 4], wide: 1.2, shade: colour.soft, sign: '·' },
      };
      const many = box.flags.placed.length > 30;
      for (const flag of box.flags.placed) {
        const { dash, wide, shade, sign } = style[flag.kind];
        const y = 8 + Math.max(0, flag.level) * 17;
        this.drawn.marks++;
        context.strokeStyle = shade;
        context.lineWidth = wide;
        context.globalAlpha = many ? .4 : .85;
        context.setLineDash(dash);
        context.beginPath(); context.moveTo(flag.x, flag.level < 0 ? box.spans : y); context.lineTo(flag.x, box.height - 6); context.stroke();
        context.setLineDash([]);
        context.globalAlpha = 1;
        if (flag.level < 0) continue;
        context.font = '600 11px ' + FONT;
        const wordsWide = context.measureText(flag.text).width + 19;
        const left = flag.flip ? flag.x - wordsWide : flag.x;
        context.fillStyle = flag.kind === 'action' ? colour.ink : colour.card;
        context.strokeStyle = flag.kind === 'action' ? colour.ink : colour.line;
        context.lineWidth = 1;
        context.beginPath();
        context.roundRect(left, y - 7.5, wordsWide, 15, 3);
        context.fill(); context.stroke();
        context.fillStyle = flag.kind === 'action' ? colour.card : colour.ink;
        context.textAlign = 'left';
        context.font = '8px ' + FONT;
        context.fillText(sign, left + 4, y + .5);
        context.font = '600 11px ' + FONT;
        context.fillText(flag.text, left + 14, y + .5);
      }
      if (box.flags.hidden) {
        context.font = '10.5px ' + FONT;
        context.fillStyle = colour.soft;
        context.textAlign = 'left';
        context.fillText(box.flags.hidden + ' without words', 0, 8, box.gutter - 8);
      }
    }

    drawSelected() {
      const { context, colour, box, selected } = this;
      if (!selected) return;
      const x = this.x(selected.at, box);
      context.strokeStyle = colour.focus;
      context.lineWidth = 2;
      if (selected.request && box.connections) {
        const place = this.rows.findIndex(row => row.connections.some(connection => connection.place === selected.request.place));
        const middle = box.connections.y + (place + .5) * box.row;
        context.beginPath(); context.arc(x, middle, 11, 0, 2 * Math.PI); context.stroke();
      } else {
        context.beginPath(); context.moveTo(x, box.spans); context.lineTo(x, box.height - 6); context.stroke();
      }
    }

    tell(text) { this.told.textContent = text; }

    words(request) {
      const connection = this.trace.connections[request.place];
      const parts = [`${connection.label}: ${GLYPHS[request.fate].words}`, `sent at ${time(request.sent, 1000)}`, `took ${time(request.ended - request.sent)}`];
      if (request.status) parts.push('status ' + request.status);
      if (request.late > 0) parts.push(`sent ${time(request.late)} after it was due`);
      if (request.generation >= 0) parts.push('answered by ' + this.trace.generations[request.generation]);
      return parts.join(' · ');
    }

    nearest(x, y) {
      const { box } = this;
      if (!box.connections) return null;
      const reach = box.row >= 9 ? 0 : Math.ceil(5 / box.row);
      const centre = Math.floor((y - box.connections.y) / box.row);
      let best = null, near = 8;
      for (let place = centre - reach; place <= centre + reach; place++) {
        for (const connection of this.rows[place]?.connections ?? []) {
          for (const request of connection.requests) {
            const left = this.x(request.sent, box), right = this.x(request.ended, box);
            const away = (x < left ? left - x : x > right ? x - right : 0) + Math.abs(place - centre) * .3 - (request.fate !== ANSWERED ? 2 : 0);
            if (away < near) { near = away; best = request; }
          }
        }
      }
      return best;
    }

    hover(event) {
      const place = this.canvas.getBoundingClientRect();
      const x = event.clientX - place.left, y = event.clientY - place.top;
      const request = this.nearest(x, y);
      if (request) return this.tell(this.words(request));
      const row = this.box.connections && this.rows[Math.floor((y - this.box.connections.y) / this.box.row)];
      const at = this.at(x, this.box);
      const on = row?.connections.find(connection => connection.opened <= at && at <= (connection.closed ?? this.length));
      this.tell(on ? `${on.label}: opened at ${time(on.opened, 1000)}, ${WORDS_OF_END[on.end]}${on.closed === null ? '' : ' at ' + time(on.closed, 1000)} · ${on.requests.length} requests drawn`
        : at >= 0 && at <= this.length ? 'at ' + time(at, 1000) : '');
    }

    zoom(factor, around = (this.view[0] + this.view[1]) / 2) {
      const span = Math.min(this.length, Math.max(50, (this.view[1] - this.view[0]) * factor));
      const share = (around - this.view[0]) / (this.view[1] - this.view[0]);
      this.show(around - span * share, span);
    }

    show(from, span) {
      from = Math.max(0, Math.min(this.length - span, from));
      this.view = [from, from + span];
      this.draw();
    }

    pan(share) {
      const span = this.view[1] - this.view[0];
      this.show(this.view[0] + span * share, span);
    }

    step(by) {
      if (!this.stops.length) return this.tell('nothing to go to');
      const place = this.selected ? this.stops.indexOf(this.selected) + by : by > 0 ? 0 : this.stops.length - 1;
      this.selected = this.stops[(place + this.stops.length) % this.stops.length];
      const { at, request, text } = this.selected;
      if (at < this.view[0] || at > this.view[1]) this.show(at - (this.view[1] - this.view[0]) / 2, this.view[1] - this.view[0]);
      else this.draw();
      const count = `${this.stops.indexOf(this.selected) + 1} of ${this.stops.length}: `;
      this.tell(count + (request ? this.words(request) : `${text} at ${time(at, 1000)}`));
    }

    act(what) {
      const actions = {
        in: () => this.zoom(.5), out: () => this.zoom(2), left: () => this.pan(-.2), right: () => this.pan(.2),
        all: () => { this.selected = null; this.show(0, this.length); }, next: () => this.step(1), before: () => this.step(-1),
      };
      actions[what]?.();
    }

    listen() {
      const keys = { '+': 'in', '=': 'in', '-': 'out', ArrowLeft: 'left', ArrowRight: 'right', 0: 'all', Home: 'all', n: 'next', p: 'before' };
      this.canvas.addEventListener('keydown', event => {
        if (!keys[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
        event.preventDefault();
        event.stopPropagation();
        this.act(keys[event.key]);
      });
      this.figure.querySelectorAll('[data-do]').forEach(button => button.addEventListener('click', () => this.act(button.dataset.do)));
      this.canvas.addEventListener('wheel', event => {
        if (!event.ctrlKey && !event.shiftKey && document.activeElement !== this.canvas) return;
        event.preventDefault();
        const x = event.clientX - this.canvas.getBoundingClientRect().left;
        this.zoom(event.deltaY + event.deltaX < 0 ? .8 : 1.25, this.at(Math.max(this.box.gutter, x), this.box));
      }, { passive: false });
      let from = null;
      this.canvas.addEventListener('pointerdown', event => { from = [event.clientX, this.view[0]]; this.canvas.setPointerCapture(event.pointerId); });
      this.canvas.addEventListener('pointerup', () => { from = null; });
      this.canvas.addEventListener('pointermove', event => {
        if (!from) return this.hover(event);
        const span = this.view[1] - this.view[0];
        this.show(from[1] - (event.clientX - from[0]) / (this.box.right - this.box.gutter) * span, span);
      });
    }
  }

  // --- the list of cases ---------------------------------------------------------------------------------

  const timelines = new Map();
  const wake = details => {
    if (!details.open) return;
    for (const figure of details.querySelectorAll('figure.timeline')) {
      if (!timelines.has(figure)) timelines.set(figure, new Timeline(figure));
    }
  };
  const cases = [...document.querySelectorAll('details.case')];
  cases.forEach(details => { details.addEventListener('toggle', () => wake(details)); wake(details); });
  const drawAll = () => timelines.forEach(timeline => { if (timeline.figure.offsetParent) timeline.draw(); });

  let wide = innerWidth;
  addEventListener('resize', () => { if (innerWidth !== wide) { wide = innerWidth; drawAll(); } });
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', drawAll);
  // On paper the pictures are light, and what went wrong is open.
  matchMedia('print').addEventListener('change', drawAll);
  addEventListener('beforeprint', () => {
    cases.filter(details => /FAIL|WARN|INCONCLUSIVE/.test(details.dataset.verdict)).forEach(details => { details.open = true; wake(details); });
    drawAll();
  });
  addEventListener('afterprint', drawAll);

  const input = document.getElementById('filter');
  const buttons = [...document.querySelectorAll('button.only')];
  const visible = () => cases.filter(details => !details.hidden);
  const filter = () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    const shown = new Set(buttons.filter(button => button.getAttribute('aria-pressed') === 'true').map(button => button.dataset.verdict));
    for (const details of cases) {
      details.hidden = !shown.has(details.dataset.verdict) || !words.every(word => details.dataset.words.includes(word));
    }
    document.getElementById('none').hidden = cases.length === 0 || visible().length > 0;
  };
  input.addEventListener('input', filter);
  buttons.forEach(button => button.addEventListener('click', () => {
    button.setAttribute('aria-pressed', button.getAttribute('aria-pressed') !== 'true');
    filter();
  }));
  const all = document.getElementById('open-all');
  all.addEventListener('click', () => {
    const open = all.textContent === 'Open all';
    visible().forEach(details => { details.open = open; });
    all.textContent = open ? 'Close all' : 'Open all';
  });

  const reveal = () => {
    const details = document.getElementById(location.hash.slice(1));
    if (!details?.matches('details.case')) return;
    details.hidden = false;
    details.open = true;
    details.querySelector('summary').focus({ preventScroll: true });
    details.scrollIntoView();
  };
  addEventListener('hashchange', reveal);
  document.querySelectorAll('a.square').forEach(square => square.addEventListener('click', () => setTimeout(reveal)));
  addEventListener('keydown', event => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target === input) { if (event.key === 'Escape') { input.value = ''; filter(); input.blur(); } return; }
    if (event.key === '/') { event.preventDefault(); input.focus(); }
    if (event.key === 'j' || event.key === 'k') {
      const list = visible();
      const now = list.findIndex(details => details.contains(document.activeElement));
      const next = list[event.key === 'j' ? now + 1 : now < 0 ? list.length - 1 : now - 1];
      if (next) { next.querySelector('summary').focus(); next.scrollIntoView({ block: 'nearest' }); }
    }
  });

  for (const element of document.querySelectorAll('time[data-began]')) {
    const date = new Date(element.dataset.began * 1000);
    element.dateTime = date.toISOString();
    element.textContent = date.toISOString().replace('T', ' ').slice(0, 19) + ' UTC';
  }
  if (location.hash) reveal();
  document.documentElement.dataset.drawn = timelines.size;
})();
