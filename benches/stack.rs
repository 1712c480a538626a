//! What each layer costs per call over a storage in memory, and what the local backend costs beside its peers.
//!
//! `cargo bench -p benches --bench stack` prints the tables; `-- --results benches/STACK.md` writes them as well, and
//! `-- get` measures only what has this in its name.
//!
//! What is compared is measured in turn, round by round and in random order, so that whatever else the machine does
//! meets all alike. A figure is the median of the rounds; a difference or a ratio is the median of those within a
//! round. Criterion measures one after the other, and a ratio of its figures would be one of two different minutes.
#![expect(clippy::disallowed_methods, reason = "the bench writes its own table of results")]

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use clap::Parser;
use jiff::Timestamp;
use object_store::local::LocalFileSystem;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStoreExt, PutPayload};
use opendal::Operator;
use opendal::services::Fs;
use rand::seq::SliceRandom;
use storage_core::backend::local::{Durability, LocalConfig, LocalStorage};
use storage_core::backend::memory::MemoryStorage;
use storage_core::id::FileId;
use storage_core::layer::cache::CacheConfig;
use storage_core::layer::fallback::FallbackStorage;
use storage_core::layer::fallback::config::FallbackConfig;
use storage_core::stack::{
    BackendConfig, Layer, LayersConfig, MemoryConfig, PairConfig, StackConfig, build, layered,
};
use storage_core::storage::{FileStorage, FileStorageExt, Precondition};
use tempfile::TempDir;
use tokio::runtime::Builder;

/// What the layers and the local backend cost
#[derive(Debug, Parser)]
#[command(name = "stack", max_term_width = 100)]
struct Args {
    /// Measure only what has this in its name: `layers metadata`, `layers upload`, `layers download`, `local put`,
    /// `local get`
    #[arg(default_value = "")]
    filter: String,
    /// Write the tables to this file as well; a relative one is taken from the root of the repository, as cargo runs
    /// benchmarks elsewhere
    #[arg(long, value_name = "FILE")]
    results: Option<PathBuf>,
    /// Rounds of files that count, a tenth of those of layers; one more comes before them
    #[arg(long, default_value_t = 61, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Said by `cargo bench`; without it, as in `cargo test --benches`, one round shows that everything runs
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let mut args = Args::parse();
    if !args.bench {
        args.rounds = 1;
    }
    // Not where temporary files may be memory: what is synced goes to a disk.
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let mut report = head(scratch);
    let tables: Vec<String> = [layers(&args)?, local(&args, scratch)?].into_iter().flatten().collect();
    if tables.is_empty() {
        bail!("nothing has \"{}\" in its name; see --help for the names", args.filter);
    }
    for table in tables {
        report.push('\n');
        report.push_str(&table);
    }
    io::stdout().write_all(report.as_bytes())?;
    if let Some(results) = args.results {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("no root of the repository")?;
        let results = root.join(results);
        fs::write(&results, report).with_context(|| format!("writing {}", results.display()))?;
    }
    Ok(())
}

/// One of those that are compared; called for a round, it answers what one operation took.
struct Case<'a> {
    round: Box<dyn Fn(u16) -> Result<Duration> + 'a>,
}

/// Measures the cases in turn; returns the nanoseconds of each round, case by case.
fn interleave(rounds: u16, cases: &[Case<'_>]) -> Result<Vec<Vec<f64>>> {
    let mut times = vec![Vec::with_capacity(rounds.into()); cases.len()];
    let mut order: Vec<usize> = (0..cases.len()).collect();
    for round in 0..=rounds {
        order.shuffle(&mut rand::rng());
        for &case in &order {
            let time = (cases[case].round)(round)?;
            if round > 0 {
                times[case].push(time.as_secs_f64() * 1e9);
            }
        }
    }
    Ok(times)
}

/// The value below which this part of the figures lies.
fn quantile(figures: impl IntoIterator<Item = f64>, part: f64) -> f64 {
    let mut figures: Vec<f64> = figures.into_iter().collect();
    figures.sort_by(f64::total_cmp);
    figures[((figures.len() - 1) as f64 * part).round() as usize]
}

fn median(figures: &[f64]) -> f64 {
    quantile(figures.iter().copied(), 0.5)
}

/// What one takes more than the other, in the same round.
fn more(one: &[f64], other: &[f64]) -> f64 {
    quantile(one.iter().zip(other).map(|(one, other)| one - other), 0.5)
}

/// How many times the other's time one takes in the same round, and between which values half of the rounds lie.
fn ratio(one: &[f64], other: &[f64]) -> String {
    let at = |part| quantile(one.iter().zip(other).map(|(one, other)| one / other), part);
    format!("{:.2} ({:.2}-{:.2})", at(0.5), at(0.25), at(0.75))
}

fn microseconds(times: &[f64]) -> String {
    let time = median(times) / 1e3;
    if time < 100.0 { format!("{time:.1}") } else { format!("{time:.0}") }
}

fn row(cells: impl IntoIterator<Item = String>) -> String {
    format!("| {} |\n", cells.into_iter().collect::<Vec<_>>().join(" | "))
}

fn header(cells: impl IntoIterator<Item = String>) -> String {
    let cells: Vec<String> = [String::new()].into_iter().chain(cells).collect();
    format!("{}|---|{}\n", row(cells.iter().cloned()), "---:|".repeat(cells.len() - 1))
}

fn head(scratch: &Path) -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let word = |text: &str| text.split_whitespace().next().unwrap_or("?").to_owned();
    let said = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output();
        word(&output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default())
    };
    let processors = read("/proc/cpuinfo");
    let processor = processors.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    format!(
        "# What the layers and the local backend cost\n\n\
         Written by `cargo bench -p benches --bench stack -- --results benches/STACK.md`; a run replaces it.\n\n\
         - {}, commit {}, {} x {}, Linux {}\n\
         - load when it began: {}; files on {}\n",
        Timestamp::now().strftime("%Y-%m-%d %H:%M UTC"),
        said("git", &["describe", "--always", "--dirty"]),
        std::thread::available_parallelism().map_or(0, usize::from),
        processor.map_or("?", |(_, name)| name),
        word(&read("/proc/sys/kernel/osrelease")),
        word(&read("/proc/loadavg")),
        said("findmnt", &["-no", "FSTYPE", "-T", &scratch.to_string_lossy()]),
    )
}

/// Nanoseconds that all layers together may add to an operation.
const TARGET: f64 = 5_000.0;

/// Calls of a round: so few that most rounds end before the system gives the processor to somebody else.
const CALLS: u32 = 100;

/// Rounds of layers for each round of files: they are short.
const LAYER_ROUNDS: u16 = 10;

#[derive(Clone, Copy)]
enum Operation {
    Metadata,
    Upload,
    Download,
}

impl Operation {
    const ALL: [Self; 3] = [Self::Metadata, Self::Upload, Self::Download];

    fn name(self) -> &'static str {
        match self {
            Self::Metadata => "metadata",
            Self::Upload => "upload 1 KiB",
            Self::Download => "download 1 KiB",
        }
    }

    async fn of_each(self, storage: &dyn FileStorage, ids: &[FileId], bytes: &Bytes) -> Result<()> {
        for id in ids {
            match self {
                Self::Metadata => drop(storage.metadata(id).await?),
                Self::Upload => drop(storage.upload_bytes(id, bytes.clone()).await?),
                Self::Download => drop(storage.download_bytes(id).await?),
            }
        }
        Ok(())
    }
}

/// A storage in memory with layers around it.
struct Stack {
    name: &'static str,
    storage: Arc<dyn FileStorage>,
    /// Whether what is read was read before, and is in the cache.
    hits: bool,
}

impl Stack {
    /// Each file is newly written, which the cache does not outlast.
    async fn round(&self, operation: Operation, ids: &[FileId], bytes: &Bytes) -> Result<Duration> {
        Operation::Upload.of_each(&*self.storage, ids, bytes).await?;
        if self.hits {
            operation.of_each(&*self.storage, ids, bytes).await?;
        }
        let start = Instant::now();
        operation.of_each(&*self.storage, ids, bytes).await?;
        Ok(start.elapsed() / CALLS)
    }
}

/// Opens the bare storage, each layer alone, and all.
async fn stacks(books: &Path) -> Result<Vec<Stack>> {
    const LAYERS: [Layer; 5] = [Layer::Metered, Layer::Cache, Layer::Retry, Layer::Limit, Layer::Timeout];
    let alone = |layer: Option<Layer>| {
        let mut config = LayersConfig::default();
        config.off = LAYERS.into_iter().filter(|other| Some(*other) != layer).collect();
        config.cache = Some(CacheConfig::default());
        layered(Arc::new(MemoryStorage::new()), &config)
    };
    let fallback = FallbackStorage::open(
        Arc::new(MemoryStorage::named("one")),
        Arc::new(MemoryStorage::named("other")),
        FallbackConfig::new(books.join("fallback.sqlite")),
    );
    let all = async |journal: &str| {
        let side = |name: &str| {
            let mut memory = MemoryConfig::default();
            memory.name = name.to_owned();
            StackConfig::new(BackendConfig::Memory(memory))
        };
        let pair = PairConfig::new(side("one"), side("other"), FallbackConfig::new(books.join(journal)));
        let mut around = LayersConfig::default();
        around.cache = Some(CacheConfig::default());
        build(StackConfig::new(BackendConfig::Fallback(pair)).with_layers(around)).await
    };
    let stack = |name, storage, hits| Stack { name, storage, hits };
    Ok(vec![
        stack("none", alone(None)?, false),
        stack("timeout", alone(Some(Layer::Timeout))?, false),
        stack("limit", alone(Some(Layer::Limit))?, false),
        stack("retry", alone(Some(Layer::Retry))?, false),
        stack("fallback", Arc::new(Box::pin(fallback).await?), false),
        stack("cache, miss", alone(Some(Layer::Cache))?, false),
        stack("cache, hit", alone(Some(Layer::Cache))?, true),
        stack("metered", alone(Some(Layer::Metered))?, false),
        stack("all, miss", Box::pin(all("miss.sqlite")).await?, false),
        stack("all, hit", Box::pin(all("hit.sqlite")).await?, true),
    ])
}

fn layers(args: &Args) -> Result<Option<String>> {
    let operations = Operation::ALL.map(|operation| (operation, format!("layers {}", operation.name())));
    let operations: Vec<Operation> = operations
        .into_iter()
        .filter(|(_, name)| name.contains(&args.filter))
        .map(|(operation, _)| operation)
        .collect();
    if operations.is_empty() {
        return Ok(None);
    }
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let books = TempDir::new()?;
    let stacks = runtime.block_on(stacks(books.path()))?;
    let ids: Result<Vec<FileId>, _> =
        (0..CALLS).map(|number| FileId::parse(format!("photos/{number}.jpg"))).collect();
    let (ids, bytes) = (ids?, Bytes::from(vec![7; 1024]));
    let rounds = args.rounds.saturating_mul(LAYER_ROUNDS);
    let mut columns = Vec::new();
    for &operation in &operations {
        let case = |stack| {
            let (runtime, ids, bytes) = (&runtime, &ids, &bytes);
            let round = move |_| runtime.block_on(Stack::round(stack, operation, ids, bytes));
            Case { round: Box::new(round) }
        };
        let cases: Vec<Case<'_>> = stacks.iter().map(case).collect();
        columns.push(interleave(rounds, &cases)?);
    }
    let mut table = format!(
        "## Layers, over a storage in memory\n\nNanoseconds per operation, medians of {rounds} rounds of {CALLS} calls.\n\n"
    );
    let heads = operations.iter().map(|operation| operation.name().to_owned());
    table += &header(heads.flat_map(|name| [name, "layers add".to_owned()]));
    let mut beyond = Vec::new();
    for (at, stack) in stacks.iter().enumerate() {
        let mut cells = vec![stack.name.to_owned()];
        for (column, operation) in columns.iter().zip(&operations) {
            let adds = more(&column[at], &column[0]);
            cells.push(format!("{:.0}", median(&column[at])));
            cells.push(if at == 0 { String::new() } else { format!("{adds:.0}") });
            if stack.name.starts_with("all") && adds >= TARGET {
                beyond.push(format!("{} ({}) {:.2} us", operation.name(), stack.name, adds / 1e3));
            }
        }
        table += &row(cells);
    }
    let verdict = match beyond.is_empty() {
        true => "met".to_owned(),
        false => format!("**not met** by {}", beyond.join(", ")),
    };
    table += &format!(
        "\n- target: all layers together add less than {:.0} us to an operation: {verdict}\n{}",
        TARGET / 1e3,
        "- each layer alone, and all as `stack::build` puts them: metered, cache, fallback, and around each of its sides \
         retry, limit, timeout, with the default of each\n\
         - a miss is the first read after a write, and what is read is kept; a hit is a later one, and asks nothing \
         beneath the cache\n\
         - the fallback is healthy and its secondary a spare: a replica costs two commits of the journal per write\n\
         - without a recorder of metrics and a subscriber of traces, whose own cost is theirs\n",
    );
    Ok(Some(table))
}

/// A directory as a storage.
enum Directory {
    Ours(LocalStorage),
    ObjectStore(LocalFileSystem),
    OpenDal(Operator),
}

impl Directory {
    async fn put(&self, name: &str, bytes: Bytes) -> Result<()> {
        match self {
            Self::Ours(storage) => drop(storage.upload_bytes(&FileId::parse(name)?, bytes).await?),
            Self::ObjectStore(store) => {
                drop(store.put(&ObjectPath::from(name), PutPayload::from(bytes)).await?);
            }
            Self::OpenDal(operator) => drop(operator.write(name, bytes).await?),
        }
        Ok(())
    }

    async fn get(&self, name: &str) -> Result<Bytes> {
        Ok(match self {
            Self::Ours(storage) => storage.download_bytes(&FileId::parse(name)?).await?,
            Self::ObjectStore(store) => store.get(&ObjectPath::from(name)).await?.bytes().await?,
            Self::OpenDal(operator) => operator.read(name).await?.to_bytes(),
        })
    }

    async fn delete(&self, name: &str) -> Result<()> {
        match self {
            Self::Ours(storage) => drop(storage.delete(&FileId::parse(name)?, Precondition::None).await?),
            Self::ObjectStore(store) => store.delete(&ObjectPath::from(name)).await?,
            Self::OpenDal(operator) => operator.delete(name).await?,
        }
        Ok(())
    }

    /// Puts new files; they are deleted when the clock has stopped, so that no sync pays for another's bytes.
    async fn puts(&self, round: u16, bytes: &Bytes) -> Result<Duration> {
        const COUNT: u32 = 4;
        let names: Vec<String> = (0..COUNT).map(|number| format!("photos/{round}-{number}.jpg")).collect();
        let start = Instant::now();
        for name in &names {
            self.put(name, bytes.clone()).await?;
        }
        let elapsed = start.elapsed();
        for name in &names {
            self.delete(name).await?;
        }
        Ok(elapsed / COUNT)
    }

    async fn gets(&self, name: &str, size: usize) -> Result<Duration> {
        const COUNT: u32 = 16;
        let start = Instant::now();
        for _ in 0..COUNT {
            let bytes = self.get(name).await?;
            if bytes.len() != size {
                bail!("{name} has {} bytes, not {size}", bytes.len());
            }
        }
        Ok(start.elapsed() / COUNT)
    }
}

/// Opens what is compared: ours durable and its two peers, ours relaxed and its one.
async fn stores(places: &[TempDir; 5]) -> Result<[Directory; 5]> {
    let [durable, synced, dal, relaxed, plain] = places.each_ref().map(TempDir::path);
    let ours = async |root: &Path, durability| {
        LocalStorage::open(LocalConfig::new(root).with_durability(durability)).await
    };
    let temporary = dal.join("temporary");
    let dal = Fs::default()
        .root(&dal.join("root").to_string_lossy())
        .atomic_write_dir(&temporary.to_string_lossy());
    Ok([
        Directory::Ours(Box::pin(ours(durable, Durability::Durable)).await?),
        Directory::ObjectStore(LocalFileSystem::new_with_prefix(synced)?.with_fsync(true)),
        Directory::OpenDal(Operator::new(dal)?),
        Directory::Ours(Box::pin(ours(relaxed, Durability::Relaxed)).await?),
        Directory::ObjectStore(LocalFileSystem::new_with_prefix(plain)?),
    ])
}

fn local(args: &Args, scratch: &Path) -> Result<Option<String>> {
    const SIZES: [(usize, &str); 3] = [(1 << 10, "1 KiB"), (64 << 10, "64 KiB"), (1 << 20, "1 MiB")];
    let chosen = |operation: &str| {
        let all = SIZES.map(|(size, name)| (size, format!("{operation} {name}")));
        all.into_iter().filter(|(_, name)| format!("local {name}").contains(&args.filter)).collect::<Vec<_>>()
    };
    let (puts, gets) = (chosen("put"), chosen("get"));
    if puts.is_empty() && gets.is_empty() {
        return Ok(None);
    }
    let runtime = Builder::new_multi_thread().enable_all().build()?;
    let place = || TempDir::new_in(scratch);
    let places = [place()?, place()?, place()?, place()?, place()?];
    let stores = runtime.block_on(stores(&places))?;
    let mut rows = Vec::new();
    for (operations, read) in [(puts, false), (gets, true)] {
        for (size, name) in operations {
            let (bytes, kept) = (Bytes::from(vec![7; size]), format!("photos/kept-{size}.jpg"));
            for store in &stores {
                // To read; and the directory stays when a round's files are deleted.
                runtime.block_on(store.put(&kept, bytes.clone()))?;
            }
            let case = |store| {
                let (runtime, kept, bytes) = (&runtime, &kept, &bytes);
                let round = move |round| match read {
                    true => runtime.block_on(Directory::gets(store, kept, size)),
                    false => runtime.block_on(Directory::puts(store, round, bytes)),
                };
                Case { round: Box::new(round) }
            };
            let cases: Vec<Case<'_>> = stores.iter().map(case).collect();
            rows.push((name, interleave(args.rounds, &cases)?));
        }
    }
    let mut table = format!(
        "## The local backend beside its peers\n\nMicroseconds per operation, medians of {} rounds; a ratio is our time by \
         the peer's, less than 1 where we are faster, with the middle half of the rounds.\n\n",
        args.rounds
    );
    let heads = [
        "ours, durable",
        "object_store, synced",
        "ratio",
        "OpenDAL fs",
        "ratio",
        "ours, relaxed",
        "object_store, not synced",
        "ratio",
    ];
    table += &header(heads.map(str::to_owned));
    for (name, times) in rows {
        let [durable, synced, dal, relaxed, plain] = &times[..] else { bail!("not five stores") };
        table += &row([
            name,
            microseconds(durable),
            microseconds(synced),
            ratio(durable, synced),
            microseconds(dal),
            ratio(durable, dal),
            microseconds(relaxed),
            microseconds(plain),
            ratio(relaxed, plain),
        ]);
    }
    table += "\n- one call at a time; puts make new files, gets read what the system has in memory\n\
              - ours keeps a SHA-256 and attributes with each file, and compares the bytes that it reads with that; \
              the peers do neither\n\
              - `object_store` with `with_fsync(true)` syncs the file and its directory, as our durable mode does\n\
              - OpenDAL's `fs` syncs each file and never its directory, and has no mode without; here it has an \
              `atomic_write_dir`, as without one it writes in place and readers see half a file\n";
    Ok(Some(table))
}
