"""The robot's page beyond the shared look: its styles, and the button that teaches while it is held."""

from __future__ import annotations

CSS = """
.rb-view { position: relative; border-radius: 8px; overflow: hidden; background: var(--fill); aspect-ratio: 4 / 3;
  width: 100%; max-height: 430px; }
.rb-view img { position: absolute; inset: 0; width: 100%; height: 100%; object-fit: contain; }
.rb-view .rb-none { position: absolute; inset: 0; display: grid; place-items: center; color: var(--soft);
  background: var(--fill); padding: 24px; text-align: center; }
.rb-answer { display: flex; align-items: baseline; gap: 4px 12px; flex-wrap: wrap; min-height: 44px; }
.rb-answer .rb-class { font-size: 30px; line-height: 1.25; font-weight: 600; overflow-wrap: anywhere; }
.rb-bar { height: 8px; border-radius: 4px; background: var(--fill); overflow: hidden; width: 100%; }
.rb-bar i { display: block; height: 100%; background: var(--main); width: 0; transition: width .2s; }
.rb-what { display: grid; grid-template-columns: 1fr auto; gap: 12px; width: 100%; }
.rb-how { display: grid; grid-template-columns: 1fr 1fr; gap: 12px; width: 100%; }
.rb-how .q-btn { min-height: 44px; }
.rb-lesson, .rb-fleet { border: 1px solid var(--main); border-radius: 8px; padding: 8px 12px; width: 100%; }
.rb-thumb { width: 44px; height: 44px; border-radius: 6px; object-fit: cover; background: var(--fill); flex: none; }
.rb-classes { display: flex; flex-direction: column; width: 100%; max-height: 300px; overflow-y: auto; }
.rb-one { display: flex; align-items: center; gap: 12px; padding: 8px 0; border-top: 1px solid var(--line);
  min-width: 0; }
.rb-one .rb-about { flex: 1; min-width: 0; }
.rb-one .rb-about div:first-child { font-weight: 500; white-space: nowrap; overflow: hidden; text-overflow: ellipsis; }
.rb-strip { display: flex; flex-wrap: wrap; gap: 8px; width: 100%; max-height: 260px; overflow-y: auto; padding: 4px; }
.rb-pick { padding: 0; border: 0; border-radius: 8px; width: 76px; height: 76px; flex: none; cursor: pointer;
  background: var(--fill); overflow: hidden; position: relative; }
.rb-pick img { width: 100%; height: 100%; object-fit: cover; display: block; }
.rb-pick[aria-pressed=true] { box-shadow: 0 0 0 4px var(--main); }
.rb-pick[aria-pressed=true]::after { content: '\\2713'; position: absolute; right: 4px; bottom: 4px; width: 22px;
  height: 22px; border-radius: 50%; background: var(--main); color: var(--card); line-height: 22px; font-size: 15px;
  text-align: center; }
.rb-pick.rb-said { width: 100%; height: auto; display: flex; align-items: center; gap: 12px; text-align: left;
  color: var(--text); font-size: 14px; padding-right: 36px; overflow-wrap: anywhere; }
.rb-said img { width: 76px; height: 76px; flex: none; }
.rb-naming { display: flex; flex-direction: column; gap: 12px; width: 100%; max-width: 520px; }
.rb-naming .q-btn { min-height: 40px; }
.rb-hold { touch-action: none; user-select: none; -webkit-user-select: none; }
.rb-hold.rb-held { box-shadow: 0 0 0 4px color-mix(in srgb, var(--main) 35%, transparent); }
"""

# The button's own timer proves that the browser is still there; a server's would go on teaching without it. The whole
# document listens: a listener of the button's own would come after the button, and a press between them would be lost.
HOLD = """
(() => {
  let timer = null, pressed = null, finger = null;
  const button = (event) => event.target instanceof Element ? event.target.closest('.rb-hold') : null;
  const say = (held) => emitEvent('hold', held);
  const end = () => { if (timer === null) return; clearInterval(timer); timer = null;
    pressed.classList.remove('rb-held'); say(false); };
  document.addEventListener('pointerdown', (event) => {
    if (timer !== null || event.button > 0 || !button(event)) return;
    pressed = button(event); finger = event.pointerId;
    event.preventDefault(); try { pressed.setPointerCapture(finger); } catch (error) {}
    pressed.classList.add('rb-held'); say(true); timer = setInterval(() => say(true), 500); });
  for (const name of ['pointerup', 'pointercancel', 'lostpointercapture'])
    document.addEventListener(name, (event) => { if (event.pointerId === finger) end(); });
  document.addEventListener('contextmenu', (event) => { if (button(event)) event.preventDefault(); });
  document.addEventListener('visibilitychange', () => { if (document.hidden) end(); });
  window.addEventListener('blur', end);
})();
"""
