//! A real browser, by way of chromedriver (W3C WebDriver over HTTP).

use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde_json::{Value, json};
use tempfile::TempDir;
use test_rig::process::{DeathSignal, Server, command, with_fresh_ports};
use test_rig::tools;

use super::client::request;

/// How long the page may take for anything.
const LIMIT: Duration = Duration::from_secs(60);

/// A browser with one tab.
#[derive(Debug)]
pub(crate) struct Browser {
    address: SocketAddr,
    session: String,
    _driver: Server,
    _dir: TempDir,
}

impl Browser {
    /// Starts one; nothing, and the test is reported as skipped, where there is none.
    pub(crate) fn start() -> Option<Self> {
        let (chromium, driver) = (tools::require("chromium")?, tools::require("chromedriver")?);
        let dir = tempfile::tempdir().unwrap();
        let (address, driver) = with_fresh_ports(|[port]| {
            let mut command = command(&driver, DeathSignal::Term);
            command.arg(format!("--port={port}")).env("HOME", dir.path()).env("TMPDIR", dir.path());
            let address = SocketAddr::from(([127, 0, 0, 1], port));
            let mut server = Server::start("chromedriver", command, dir.path().join("driver.log"))?;
            // It speaks HTTP/1.1 only.
            let ready = || {
                TcpStream::connect(address).is_ok()
                    && request(address, "GET", "/status", &[], "").status == 200
            };
            server.wait_until(LIMIT, ready)?;
            Ok((address, server))
        })
        .unwrap();
        let mut browser = Self { address, session: String::new(), _driver: driver, _dir: dir };
        let profile = browser._dir.path().join("profile");
        let options = json!({
            "binary": chromium,
            "args": [
                "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
                "--disable-background-networking", "--disable-component-update", "--disable-sync",
                "--disable-dev-shm-usage", "--force-device-scale-factor=2", "--hide-scrollbars",
                format!("--user-data-dir={}", profile.display()),
            ],
        });
        let wanted = json!({"capabilities": {"alwaysMatch": {
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }}});
        let session = browser.post("/session", &wanted);
        browser.session = session["sessionId"].as_str().unwrap().to_owned();
        Some(browser)
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        let headers = [("Content-Type", "application/json")];
        let answer = request(self.address, "POST", path, &headers, &body.to_string());
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        answer.json()["value"].clone()
    }

    fn tell(&self, what: &str, body: &Value) -> Value {
        self.post(&format!("/session/{}/{what}", self.session), body)
    }

    fn devtools(&self, method: &str, parameters: Value) -> Value {
        self.tell("goog/cdp/execute", &json!({"cmd": method, "params": parameters}))
    }

    pub(crate) fn open(&self, address: SocketAddr) {
        self.tell("url", &json!({"url": format!("http://{address}/")}));
    }

    /// Makes the window a desktop's or a phone's, and prefers light or dark.
    pub(crate) fn look(&self, width: u32, height: u32, scheme: &str) {
        let metrics =
            json!({"width": width, "height": height, "deviceScaleFactor": 2, "mobile": width < 600});
        self.devtools("Emulation.setDeviceMetricsOverride", metrics);
        let media = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.devtools("Emulation.setEmulatedMedia", media);
    }

    /// Runs a function body in the page and returns what it returns.
    pub(crate) fn run(&self, script: &str, arguments: &[Value]) -> Value {
        self.tell("execute/sync", &json!({"script": script, "args": arguments}))
    }

    /// The text of an element as a reader sees it.
    pub(crate) fn text(&self, selector: &str) -> String {
        let script = "const e = document.querySelector(arguments[0]); return e ? e.innerText : ''";
        self.run(script, &[selector.into()]).as_str().unwrap().to_owned()
    }

    /// Clicks as a user does: on what is visible, where it is.
    pub(crate) fn click(&self, selector: &str) {
        let element = self.find(selector);
        self.tell(&format!("element/{element}/click"), &json!({}));
    }

    pub(crate) fn write(&self, selector: &str, text: &str) {
        let element = self.find(selector);
        self.tell(&format!("element/{element}/value"), &json!({"text": text}));
    }

    fn find(&self, selector: &str) -> String {
        let found = self.tell("element", &json!({"using": "css selector", "value": selector}));
        found.as_object().unwrap().values().next().unwrap().as_str().unwrap().to_owned()
    }

    /// Presses keys, as the keyboard of whoever cannot use a mouse.
    pub(crate) fn press(&self, key: &str) {
        let press = json!([{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]);
        self.tell("actions", &json!({"actions": [{"type": "key", "id": "keyboard", "actions": press}]}));
    }

    /// Waits until an element's text holds some words.
    #[track_caller]
    pub(crate) fn until(&self, selector: &str, words: &str) {
        let start = Instant::now();
        while !self.text(selector).contains(words) {
            let text = self.text("body");
            assert!(start.elapsed() < LIMIT, "no {words:?} in {selector}\n{text}\n{:#?}", self.complaints());
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// What the console says is wrong: policy violations, exceptions, failed requests.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let log = self.tell("se/log", &json!({"type": "browser"}));
        log.as_array().unwrap().iter().map(|line| line["message"].as_str().unwrap().to_owned()).collect()
    }

    /// Every address that the page has asked for.
    pub(crate) fn addresses(&self) -> Vec<String> {
        let log = self.tell("se/log", &json!({"type": "performance"}));
        let events = log.as_array().unwrap().iter().map(|line| {
            serde_json::from_str::<Value>(line["message"].as_str().unwrap()).unwrap()["message"].clone()
        });
        let requests = events.filter(|event| event["method"] == "Network.requestWillBeSent");
        requests.map(|event| event["params"]["request"]["url"].as_str().unwrap().to_owned()).collect()
    }

    /// Takes a picture of the whole page into `$DASHBOARD_SHOTS`, where that is set, and returns its bytes.
    pub(crate) fn picture(&self, name: &str) -> Vec<u8> {
        let shot = self.devtools("Page.captureScreenshot", json!({"captureBeyondViewport": true}));
        let bytes = BASE64_STANDARD.decode(shot["data"].as_str().unwrap()).unwrap();
        if let Some(directory) = std::env::var_os("DASHBOARD_SHOTS").map(PathBuf::from) {
            std::fs::create_dir_all(&directory).unwrap();
            std::fs::write(Path::new(&directory).join(name).with_extension("png"), &bytes).unwrap();
        }
        bytes
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The browser ends with its session; the driver is killed in any case.
        if !self.session.is_empty() && !thread::panicking() {
            request(self.address, "DELETE", &format!("/session/{}", self.session), &[], "");
        }
    }
}
