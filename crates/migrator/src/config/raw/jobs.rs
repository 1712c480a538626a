//! The sections of the daemon.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Table, nearest};
use crate::config::jobs::{Daemon, Job, Mode};
use crate::config::{ConfigError, is_storage_name};
use crate::daemon::schedule::{Schedule, Times, zone};
use crate::quantity::parse_age;

const DAEMON: [&str; 5] = ["listen", "token_file", "allow_remote", "hosts", "timezone"];
const JOB: [&str; 12] = [
    "source",
    "target",
    "mode",
    "options",
    "schedule",
    "jitter",
    "catch_up",
    "watch",
    "debounce",
    "reconcile",
    "retry",
    "retries",
];

/// How often a job that watches looks at everything.
const RECONCILE: Duration = Duration::from_secs(86400);

pub(super) fn daemon(root: &Table<'_, '_>) -> Result<Daemon, ConfigError> {
    let mut daemon = Daemon::default();
    let Some(table) = root.table("daemon")? else { return Ok(daemon) };
    table.only(&DAEMON)?;
    let listen = table.checked("listen", |value| {
        value.as_str().and_then(|text| text.parse().ok()).ok_or_else(|| {
            "expected an address and a port in quotes, as in \"127.0.0.1:9180\" or \"[::1]:9180\"".to_owned()
        })
    })?;
    daemon.listen = listen.unwrap_or(daemon.listen);
    let base = table.file.path.parent().unwrap_or(Path::new(""));
    daemon.token_file = table.text("token_file")?.map(|path| base.join(PathBuf::from(path)));
    daemon.allow_remote = flag(&table, "allow_remote")?.unwrap_or(false);
    daemon.hosts = table.texts("hosts")?;
    daemon.timezone = table.checked("timezone", |value| {
        let name = value.as_str().ok_or("expected a name in quotes, as in \"Europe/Berlin\"")?;
        zone(Some(name)).map(|_| name.to_owned()).map_err(|error| error.to_string())
    })?;
    Ok(daemon)
}

pub(super) fn jobs(root: &Table<'_, '_>) -> Result<BTreeMap<String, Job>, ConfigError> {
    let mut jobs = BTreeMap::new();
    let Some(section) = root.table("job")? else { return Ok(jobs) };
    for (key, value) in section.table {
        let name: &str = key.get_ref();
        if !is_storage_name(name) {
            let message = format!("a job's name has letters, digits, `_` and `-` only, not {name:?}");
            return Err(section.file.wrong(key.span(), message));
        }
        let table = section.below(name, key.span(), value)?;
        jobs.insert(name.to_owned(), job(&table)?);
    }
    Ok(jobs)
}

fn job(table: &Table<'_, '_>) -> Result<Job, ConfigError> {
    table.only(&JOB)?;
    let mode = table.required("mode")?;
    let mode = Mode::ALL.into_iter().find(|known| known.as_str() == mode).ok_or_else(|| {
        let known = Mode::ALL.map(Mode::as_str);
        let error = table.wrong("mode", format!("{mode:?} is no mode"));
        match nearest(&mode, &known) {
            Some(known) => error.with_hint(format!("did you mean {known:?}?")),
            None => error.with_hint("the modes are \"copy\", \"sync\", \"verify\" and \"cleanup\""),
        }
    })?;
    let watch = flag(table, "watch")?.unwrap_or(false);
    let mut times = Times {
        schedule: table.checked("schedule", |value| {
            let text = value.as_str().ok_or("expected a text in quotes, as in \"15 3 * * *\"")?;
            Schedule::parse(text).map_err(|error| error.to_string())
        })?,
        ..Times::default()
    };
    times.jitter = age(table, "jitter")?.unwrap_or(times.jitter);
    times.debounce = age(table, "debounce")?.unwrap_or(times.debounce);
    times.retry.first = age(table, "retry")?.unwrap_or(times.retry.first);
    times.retry.most = times.retry.most.max(times.retry.first);
    let retries = table.checked("retries", |value| {
        value
            .as_integer()
            .and_then(|number| number.as_str().replace('_', "").parse().ok())
            .ok_or_else(|| "expected a whole number, 0 for none".to_owned())
    })?;
    times.retry.times = retries.unwrap_or(times.retry.times);
    times.reconcile = age(table, "reconcile")?;
    if watch {
        times.reconcile = times.reconcile.or(Some(RECONCILE));
        let what = match mode {
            Mode::Copy | Mode::Sync => None,
            Mode::Verify => Some("an audit"),
            Mode::Cleanup => Some("a cleanup"),
        };
        if let Some(what) = what {
            let message = format!("{what} does not follow changes: give it a schedule");
            return Err(table.wrong("watch", message));
        }
    } else {
        for key in ["debounce", "reconcile"] {
            if table.get(key).is_some() {
                return Err(table
                    .wrong(key, "is of jobs that watch their source")
                    .with_hint("set watch = true, or leave it out"));
            }
        }
    }
    if times.schedule.is_none() && table.get("jitter").is_some() {
        return Err(table.wrong("jitter", "is of jobs that have a schedule"));
    }
    Ok(Job {
        source: table.required("source")?,
        target: table.required("target")?,
        mode,
        options: table.texts("options")?,
        times,
        catch_up: flag(table, "catch_up")?.unwrap_or(true),
        watch,
        line: table.file.line(table.span.start),
    })
}

fn flag(table: &Table<'_, '_>, key: &str) -> Result<Option<bool>, ConfigError> {
    table.checked(key, |value| value.as_bool().ok_or_else(|| "expected true or false".to_owned()))
}

fn age(table: &Table<'_, '_>, key: &str) -> Result<Option<Duration>, ConfigError> {
    table.checked(key, |value| {
        let text = value.as_str().ok_or("expected a duration in quotes, as in \"10m\"")?;
        parse_age(text).map_err(|error| error.to_string())
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{documented, parsed, refused};
    use super::*;

    #[test]
    fn reads_what_the_documentation_shows() {
        let config = parsed(&documented(include_str!("../jobs.rs"))).unwrap();
        assert_eq!(config.daemon.token_file.unwrap(), PathBuf::from("/etc/migrator/token"));
        assert_eq!(config.daemon.listen, Daemon::default().listen);
        let job = &config.jobs["photos"];
        assert_eq!((job.mode, job.watch, job.catch_up), (Mode::Copy, true, true));
        assert_eq!(job.options, ["--exclude", "*.tmp"]);
        // What the comments call defaults are the defaults.
        let mut bare = parsed("[job.a]\nsource = \"s\"\ntarget = \"t\"\nmode = \"copy\"\nwatch = true\nschedule = \"15 3 * * *\"\n").unwrap();
        let times = &mut bare.jobs.get_mut("a").unwrap().times;
        times.jitter = Duration::from_secs(600);
        assert_eq!(*times, job.times);
    }

    #[test]
    fn what_means_nothing_is_refused_with_its_line() {
        let job = |more: &str| format!("[job.a]\nsource = \"s\"\ntarget = \"t\"\nmode = \"copy\"\n{more}");
        for (text, message) in [
            (job("schedule = \"61 * * * *\""), ":5: [job.a] schedule: \"61 * * * *\" is no schedule"),
            (job("schedul = \"hourly\""), "did you mean \"schedule\"?"),
            (job("debounce = \"2s\""), ":5: [job.a] debounce: is of jobs that watch"),
            (job("jitter = \"2s\""), ":5: [job.a] jitter: is of jobs that have a schedule"),
            (job("retries = \"many\""), ":5: [job.a] retries: expected a whole number"),
            ("[job.a]\nmode = \"copi\"\n".to_owned(), "did you mean \"copy\"?"),
            (
                job("watch = true").replace("\"copy\"", "\"cleanup\""),
                ":5: [job.a] watch: a cleanup does not follow changes",
            ),
            ("[job.a]\nmode = \"copy\"\n".to_owned(), "[job.a] has no key \"source\""),
            ("[job.\"a b\"]\n".to_owned(), "letters, digits"),
            ("[daemon]\nlisten = \"9180\"\n".to_owned(), ":2: listen: expected an address"),
            ("[daemon]\ntimezone = \"Mars\"\n".to_owned(), ":2: timezone: \"Mars\" is no time zone"),
            ("[daemon]\ntoken = \"hunter2\"\n".to_owned(), "takes no secrets"),
        ] {
            let refusal = refused(&text);
            assert!(refusal.contains(message), "{text}: {refusal}");
            assert!(!refusal.contains("hunter2"));
        }
    }
}
