//! The dashboard in a real browser.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use super::browser::Browser;
use super::hall::{Hall, Stage, TOKEN, job};
use crate::support::bytes;

/// Tests that find no browser are skipped in print.
macro_rules! browser {
    () => {
        match Browser::start() {
            Some(browser) => browser,
            None => return,
        }
    };
}

/// A daemon that has done a few things, and is at one.
fn hall() -> Hall {
    let jobs = [
        job("photos", "schedule = \"15 3 * * *\"\nwatch = true\nretries = 0"),
        "[job.audit]\nsource = \"./source\"\ntarget = \"./target\"\nmode = \"verify\"\nschedule = \"0 6 * * SUN\"\noptions = [\"--read-back\"]\n".to_owned(),
        "[job.videos]\nsource = \"./videos\"\ntarget = \"embedded:./bucket\"\nmode = \"copy\"\nschedule = \"every 6h\"\noptions = [\"--bandwidth\", \"2MiB/s\", \"--part-size\", \"5MiB\"]\n".to_owned(),
        "[job.archive]\nsource = \"./not-mounted\"\ntarget = \"./attic\"\nmode = \"copy\"\nschedule = \"daily\"\nretries = 0\n".to_owned(),
    ];
    let stage = Stage::new(&jobs.concat());
    for index in 0..40 {
        stage.desk.write(&format!("source/2024/{index:02}.jpg"), bytes(index, 60_000));
    }
    stage.desk.write("source/2024/summer evening.jpg", bytes(77, 90_000));
    stage.desk.write("source/private/diary.txt", "dear diary");
    for index in 0..12 {
        stage.desk.write(&format!("videos/{index:02}.mov"), bytes(index, 4 << 20));
    }
    fs::set_permissions(stage.desk.source("private/diary.txt"), fs::Permissions::from_mode(0o000)).unwrap();
    stage.desk.give_to_nobody();
    let command = stage.command().by_nobody();
    let hall = stage.start_as(command);
    hall.until("photos", "it has run", |view| !view["last"].is_null() && view["run"].is_null());
    hall
}

fn close(hall: &Hall, name: &str, mode: u32) {
    fs::set_permissions(hall.desk().source(name), fs::Permissions::from_mode(mode)).unwrap();
}

/// The way of an operator: what is wrong is seen, explained, mended, retried, and is well.
#[test]
fn a_failure_is_seen_explained_and_retried() {
    let browser = browser!();
    let hall = hall();
    browser.open(hall.address);
    browser.until("#link-text", "live");
    browser.until("[data-job=photos] .state", "some failed");
    browser.until("#failures", "private/diary.txt");
    browser.until("#s-failed", "1");
    assert!(browser.text("#s-verified").contains("41 of 42 files"), "{}", browser.text("#s-verified"));
    // What is verified is never rounded up to all.
    assert!(
        browser.text("[data-job=photos] .cover").contains("97.6 %"),
        "{}",
        browser.text("[data-job=photos]")
    );

    browser.click("#failures td.name button");
    browser.until("#stories", "failed: the last attempt failed");
    browser.until("#stories", "ermission denied");
    browser.until("#stories .next", "Next");
    // The report of the run that failed is a click away, and says why.
    let report =
        "const a = document.querySelector('#runs a'); return fetch(a.href).then((answer) => answer.text())";
    assert!(browser.run(report, &[]).as_str().unwrap().contains("private/diary.txt"));

    // Without the token, the order waits for it.
    browser.click("#failures tbody td:last-child button");
    browser.until("#key", "Unlock");
    browser.write("#key-input", "not the daemon's token");
    browser.click("#key-form button.main");
    browser.until("#key-text", "not the daemon's token");
    close(&hall, "private/diary.txt", 0o644);
    browser.write("#key-input", TOKEN);
    browser.click("#key-form button.main");
    browser.until("#no-failures", "Nothing has failed");
    browser.until("[data-job=photos] .cover", "100 % verified");
    browser.until("#runs tbody tr:first-child", "all well");
    // Who copied it is not said: the job watches its source, and may have seen the mending before the retry.

    // By hand: a search for a name with a space.
    browser.write("#find-id", "");
    browser.run("document.getElementById('find-id').value = ''", &[]);
    browser.write("#find-id", "2024/summer evening.jpg\u{e007}");
    browser.until("#stories", "verified: the target's bytes were compared and are right");
    // What is not there is said.
    browser.run("document.getElementById('find-id').value = ''", &[]);
    browser.write("#find-id", "no/such<b>file</b>\u{e007}");
    browser.until("#stories", "No ledger knows no/such<b>file</b>");

    let wrong: Vec<_> =
        browser.complaints().into_iter().filter(|line| !line.contains("status of 401")).collect();
    assert_eq!(wrong, [""; 0], "nothing is blocked, nothing is thrown");
}

/// A run is followed live, and stopped with the keyboard alone.
#[test]
fn a_run_is_followed_live_and_stopped_by_the_keyboard() {
    let browser = browser!();
    let hall = hall();
    browser.open(hall.address);
    browser.until("#link-text", "live");
    browser.run("sessionStorage.setItem('migrator-token', arguments[0]); location.reload()", &[TOKEN.into()]);
    browser.until("#link-text", "live");
    browser.run("document.querySelector('[data-job=videos] footer button.main').focus()", &[]);
    browser.press("\u{e007}");
    browser.until("[data-job=videos] .state", "running");
    browser.until("[data-job=videos] .now", "/s");
    let has_line = "return document.querySelector('[data-job=videos] .edge').getAttribute('d').length > 10";
    while browser.run(has_line, &[]) != true {
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    // The focus stays where it was put although the card is drawn anew every second.
    browser.run("document.querySelector('[data-job=videos] footer button:nth-child(2)').focus()", &[]);
    std::thread::sleep(std::time::Duration::from_millis(2500));
    assert_eq!(browser.run("return document.activeElement.innerText", &[]), "Stop");
    browser.press("\u{e007}");
    browser.until("[data-job=videos] .state", "interrupted");
    // The daemon ends: the page says so.
    hall.stop().1.exits(0);
    browser.until("#link-text", "no connection");
}

/// One page, and nothing from anywhere else; no text of a file's name is ever markup.
#[test]
fn nothing_comes_from_elsewhere_and_names_are_text() {
    let browser = browser!();
    let evil = "<img src=x onerror=alert(1)>.txt";
    let stage = Stage::new(&job("files", "retries = 0"));
    stage.desk.write(&format!("source/{evil}"), "x");
    fs::set_permissions(stage.desk.source(evil), fs::Permissions::from_mode(0o000)).unwrap();
    stage.desk.give_to_nobody();
    let command = stage.command().by_nobody();
    let hall = stage.start_as(command);
    hall.run("files");
    browser.open(hall.address);
    browser.until("#failures", evil);
    browser.click("#failures td.name button");
    browser.until("#stories", "ermission denied");
    assert_eq!(
        browser.run("return document.querySelectorAll('img, script[src], link[rel=stylesheet]').length", &[]),
        0
    );
    let own = format!("http://{}/", hall.address);
    // The browser's own first tab is none of the page's.
    for address in browser.addresses().into_iter().filter(|address| !address.starts_with("chrome://")) {
        assert!(address.starts_with(&own) || address.starts_with("data:"), "{address}");
    }
    // The policy holds: what is not in the page does not run.
    browser.run("const s = document.createElement('style'); s.textContent = 'body{display:none}'; document.head.append(s)", &[]);
    assert_ne!(browser.run("return getComputedStyle(document.body).display", &[]), "none");
    assert!(browser.complaints().iter().any(|line| line.contains("Content Security Policy")));
}

/// A desk and a phone, in light and in dark: nothing is cut off, everything has a name, and text can be read.
#[test]
fn it_fits_a_phone_and_is_readable_in_light_and_dark() {
    let browser = browser!();
    let hall = hall();
    hall.run("audit");
    hall.order("/api/v1/jobs/archive/run", "{}").expect(202);
    hall.order("/api/v1/jobs/videos/run", "{}").expect(202);
    browser.open(hall.address);
    browser.until("[data-job=videos] .now", "/s");
    browser.until("#runs", "mismatch");
    browser.click("#failures td.name button");
    browser.until("#stories", "ermission denied");
    std::thread::sleep(std::time::Duration::from_secs(6));
    for (name, width, height) in [("desktop", 1280, 900), ("phone", 390, 844)] {
        for scheme in ["light", "dark"] {
            browser.look(width, height, scheme);
            browser.run("scrollTo(0, 0)", &[]);
            let picture = browser.picture(&format!("{name}-{scheme}"));
            assert!(picture.len() > 20_000, "a page of one colour");
            let wide = browser.run("return document.documentElement.scrollWidth", &[]);
            assert!(wide.as_u64() <= Some(width.into()), "{name}: {wide} wide");
            assert_eq!(
                browser.run(CONTRAST, &[]),
                serde_json::json!([]),
                "{name} {scheme}: too little contrast"
            );
        }
    }
    assert_eq!(browser.run(NAMELESS, &[]), serde_json::json!([]));
    assert_eq!(browser.run(DOUBLE, &[]), serde_json::json!([]));
}

/// Texts whose contrast is less than WCAG 2.2 AA asks for (4.5, large texts 3).
const CONTRAST: &str = r#"
const parse = (colour) => { const m = colour.match(/[\d.]+/g).map(Number); return { c: m.slice(0, 3), a: m.length > 3 ? m[3] : 1 }; };
const light = ([r, g, b]) => { const f = (v) => { v /= 255; return v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; };
  return .2126 * f(r) + .7152 * f(g) + .0722 * f(b); };
const bad = [];
const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
for (let node; (node = walk.nextNode());) {
  const element = node.parentElement;
  if (!node.data.trim() || ["SCRIPT", "STYLE"].includes(element.tagName) || !element.checkVisibility() || element.closest(".hush, .skip, :disabled")) continue;
  const style = getComputedStyle(element);
  let behind = null;
  for (let e = element; e && !behind; e = e.parentElement) { const own = parse(getComputedStyle(e).backgroundColor); if (own.a === 1) behind = own.c; }
  const [a, b] = [light(parse(style.color).c), light(behind || [255, 255, 255])].sort((x, y) => y - x);
  const large = parseFloat(style.fontSize) >= 24;
  if ((a + .05) / (b + .05) < (large ? 3 : 4.5)) bad.push(node.data.trim() + " " + ((a + .05) / (b + .05)).toFixed(2));
}
return bad;
"#;

/// Things to use that have no name for whoever does not see them.
const NAMELESS: &str = r#"
return [...document.querySelectorAll("button, input, select, a, [role=img], [role=progressbar]")].filter((e) =>
  !(e.getAttribute("aria-label") || e.getAttribute("aria-labelledby") || e.textContent.trim() || (e.labels && e.labels.length))).map((e) => e.outerHTML.slice(0, 120));
"#;

/// Ids that are there twice.
const DOUBLE: &str = r#"
const ids = [...document.querySelectorAll("[id]")].map((e) => e.id);
return ids.filter((id, at) => ids.indexOf(id) !== at);
"#;
