"""The console: pages for people in a browser, over the same HTTP API that machines use.

A page is a template that draws its frame and a plain ES module that fills it by the API; nothing is computed here twice.

To add a page `lots`:
1. `pages.py`: a line in PAGES, with its path and the scope that a key needs for it. Paths begin with /console/, since the
   API has names such as /models for itself.
2. `templates/lots.html`: `{% extends "base.html" %}`, and `{% block content %}` with the page's landmarks, headings and
   controls. `t` holds the page's texts, `all` the whole catalogue, `viewer` who looks (`viewer.may("admin")`).
3. `static/lots.js`: a module, loaded by base.html by the page's name. It imports
   `./shell.js`   text("key", {values}) of the page or `shell.key`; viewer; toast(message)
   `./dom.js`     el("td", {class: "number", onclick}, ...children): the only way to make elements; texts are always texts
                  keyedList, showChanged, latest: lists that keep what is unchanged, and answers that may come late
   `./ask.js`     await ask(title, words, yes): before what others feel or cannot be undone
   `./api.js`     call("/lots", {method, json, body, signal}) -> answer; throws Problem {status, title, detail}; CSRF is sent along
   `./verdict.js` badge("not_ok"), when(iso), number(x): how verdicts, times and scores are shown
   `./events.js`  subscribe({inspection(data) {}, words(data) {}, review(data) {}, model(data) {}, missed() {}}): what happens, live
   `./inspection.js`, `./picture.js`, `./record.js`, `./review.js`: an inspection with its picture, heat, words and review
   Module-scoped state is the browser's, one page each.
4. `texts/en.yaml`: the page's words, under its name. No sentence stands in a template or a module.
5. `static/console.css` has the parts: .panel .toolbar .button(.primary .quiet .danger) .field .badge .table .facts .empty
   .failure .notice .chip .progress .columns .visually-hidden; a page's own rules go into `static/lots.css`, linked in
   `{% block head %}`.

The Content-Security-Policy (shell.py) forbids inline scripts, inline styles (`style=""` in markup; element.style in a module is
allowed), other origins, and, by Trusted Types, innerHTML and its like.
"""
