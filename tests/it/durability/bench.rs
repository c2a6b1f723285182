//! Where cases run: a folder with a tiny teacher, a student and data, the program with time limits,
//! and the sums of what was tried.

use crate::support;
use crate::support::graph::{ints, write_graph};

use nst_cache::array::{Array, Values};
use nst_cache::onnx::proto::TensorProto;
use nst_cache::onnx::tensor_proto;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Samples of the data set: three segments.
pub const SAMPLES: usize = 300;

/// No command takes nearly so long, even beside others.
pub const PATIENCE: Duration = Duration::from_mins(2);

/// The cache that all runs train from.
pub const EXTRACT: &str = "extract teacher.onnx --data idx:data --preprocess fashion-mnist \
                           --batch 32 --threads 2 --keep features --tap map2@7x7=small";

/// A run of ten steps.
pub const TRAIN: &str = "train student.onnx --cache ex --test folder:images --epochs 2 --batch 64 \
                         --threads 1 --criterion kd";

/// Two runs of five steps.
pub const SWEEP: &str = "sweep runs.toml --threads 1";

const RUNS: &str = r#"
cache = "ex"
test = "folder:images"
students = ["student.onnx"]
seeds = [0, 1]
epochs = 1
batch = 64
[[method]]
name = "KD"
[[method.criterion]]
method = "kd"
"#;

/// A folder in which commands run.
pub struct Bench {
    folder: TempDir,
    /// The library that is put between the program and libc.
    pub shim: PathBuf,
}

impl Bench {
    /// The teacher, the student, data, images to test with and a sweep's recipe.
    pub fn new() -> Self {
        support::need_runtime();
        let memory = Path::new("/dev/shm");
        let place = match std::env::var_os("NST_DURABILITY_DIR") {
            Some(place) => PathBuf::from(place),
            None if std::fs::metadata(memory).is_ok_and(|m| m.is_dir()) => memory.to_owned(),
            None => std::env::temp_dir(),
        };
        let place = place.canonicalize().unwrap();
        let folder = tempfile::Builder::new().prefix("nst-durability-").tempdir_in(place).unwrap();
        let shim = super::shim::build(folder.path());
        let bench = Self { folder, shim };
        support::write_teacher(&bench.at("teacher.onnx"));
        support::write_idx(&bench.at("data"), SAMPLES);
        write_student(&bench.at("student.onnx"));
        let classes = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
        support::write_images_of(&bench.at("images"), 20, &classes);
        std::fs::write(bench.at("runs.toml"), RUNS).unwrap();
        bench
    }

    /// A bench with the cache that runs train from.
    pub fn with_cache() -> Self {
        let bench = Self::new();
        bench.succeeds(&format!("{EXTRACT} -o ex"));
        bench
    }

    pub fn at(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    /// A new folder for a case, without anything in it.
    pub fn place(&self) -> TempDir {
        tempfile::Builder::new().prefix("case-").tempdir_in(self.folder.path()).unwrap()
    }

    /// The program with these arguments, in this folder.
    pub fn command(&self, line: &str) -> Command {
        let program = std::env::var_os("NST_BINARY").unwrap_or_else(|| support::PROGRAM.into());
        let mut command = Command::new(program);
        command.current_dir(self.folder.path()).arg("-q").args(line.split_whitespace());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// The program under limits as `ulimit` takes them.
    pub fn within(&self, line: &str, limits: &str) -> Command {
        let plain = self.command(line);
        let mut command = Command::new("sh");
        command.current_dir(self.folder.path());
        command.args(["-c", &format!("ulimit {limits}; exec \"$0\" \"$@\"")]);
        command.arg(plain.get_program()).args(plain.get_args());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs a command to its end, or until nobody would wait any longer.
    pub fn run(&self, line: &str) -> Done {
        finish(self.command(line).spawn().unwrap(), PATIENCE)
    }

    /// Runs what is to succeed.
    pub fn succeeds(&self, line: &str) -> Done {
        let done = self.run(line);
        assert!(done.code == Some(0), "{line}: {}", done.said());
        done
    }

    /// What was printed, with the bench's own folder left out.
    pub fn brief(&self, text: &str) -> String {
        let text = text.replace(&*self.folder.path().to_string_lossy(), "~");
        text.trim().chars().take(600).collect()
    }
}

/// How a command ended.
#[derive(Debug, Clone)]
pub struct Done {
    /// The exit status, where it exited by itself.
    pub code: Option<i32>,
    pub signal: Option<i32>,
    pub is_late: bool,
    pub out: String,
    pub err: String,
}

impl Done {
    /// Whether it panicked, was ended by a signal, or hung.
    pub fn is_crash(&self) -> bool {
        self.is_late
            || self.signal.is_some()
            || self.code.is_some_and(|code| !(0..=2).contains(&code) && code != 130)
            || self.err.contains("panicked")
    }

    /// Status and messages.
    pub fn said(&self) -> String {
        let ended = match (self.is_late, self.code, self.signal) {
            (true, ..) => "no end".to_owned(),
            (_, Some(code), _) => format!("exit {code}"),
            (_, _, signal) => format!("signal {}", signal.unwrap_or_default()),
        };
        format!("{ended}: {} {}", self.err.trim(), self.out.trim())
    }
}

/// Waits for a child's end; one that takes longer is killed.
pub fn finish(mut child: Child, patience: Duration) -> Done {
    let reader = |stream: Option<Box<dyn Read + Send>>| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            if let Some(mut stream) = stream {
                // what a killed child said last is of no use
                let _ = stream.read_to_end(&mut bytes);
            }
            String::from_utf8_lossy(&bytes).into_owned()
        })
    };
    let out = reader(child.stdout.take().map(|s| Box::new(s) as _));
    let err = reader(child.stderr.take().map(|s| Box::new(s) as _));
    let started = Instant::now();
    let mut is_late = false;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if started.elapsed() > patience && !is_late {
            is_late = true;
            child.kill().unwrap();
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    Done {
        code: status.code(),
        signal: status.signal(),
        is_late,
        out: out.join().unwrap(),
        err: err.join().unwrap(),
    }
}

/// What is wrong with a case: nothing, or a line for each thing.
pub type Faulty = Vec<String>;

/// A case by its name, and what is wrong with it.
pub struct Verdict {
    pub name: String,
    pub faulty: Faulty,
}

/// The case that is tried alone, where one is named.
pub fn alone() -> Option<String> {
    std::env::var("NST_CASE").ok()
}

/// Tries the cases on all cores, or the one that is named. Ends the test with what is wrong, and
/// adds a line to the table of figures. A case for which `check` gives nothing did not come about.
pub fn judge<T: Sync>(
    what: &str,
    cases: &[(String, T)],
    check: impl Fn(&T) -> Option<Faulty> + Sync,
) {
    let alone = alone();
    let cases: Vec<&(String, T)> =
        cases.iter().filter(|(name, _)| alone.as_ref().is_none_or(|a| a == name)).collect();
    let verdicts = each(&cases, |(name, case)| {
        check(case).map(|faulty| Verdict { name: name.clone(), faulty })
    });
    conclude(what, &verdicts.into_iter().flatten().collect::<Vec<_>>());
}

/// The table's line, and the end of the test where something is wrong.
pub fn conclude(what: &str, verdicts: &[Verdict]) {
    assert!(!verdicts.is_empty(), "{what}: nothing was tried; NST_SLOW=1 has all cases");
    let failing: Vec<&Verdict> = verdicts.iter().filter(|v| !v.faulty.is_empty()).collect();
    let line = format!("| {what} | {} | {} |", verdicts.len(), failing.len());
    eprintln!("{line}");
    if let Some(path) = std::env::var_os("NST_FIGURES") {
        use std::io::Write as _;
        let mut file = std::fs::File::options().append(true).create(true).open(path).unwrap();
        file.write_all(format!("{line}\n").as_bytes()).unwrap();
    }
    let shown: Vec<String> = failing
        .iter()
        .take(25)
        .map(|v| format!("NST_CASE={}\n    {}", v.name, v.faulty.join("\n    ")))
        .collect();
    assert!(failing.is_empty(), "{line}\n{}", shown.join("\n"));
}

/// Calls `action` for all items, as many at once as there are cores; results in the items' order.
pub fn each<T: Sync, R: Send>(items: &[T], action: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        while let Some((at, item)) = {
            let at = next.fetch_add(1, Ordering::Relaxed);
            items.get(at).map(|item| (at, item))
        } {
            done.push((at, action(item)));
        }
        done
    };
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let mut all: Vec<(usize, R)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    all.sort_by_key(|(at, _)| *at);
    all.into_iter().map(|(_, result)| result).collect()
}

/// So many of the items, drawn by a seed, in their order; all where everything is asked for and
/// there are no more than `most`.
pub fn sample<T>(items: Vec<T>, few: usize, most: usize, seed: u64) -> Vec<T> {
    let wanted = if support::is_slow() { most } else { few };
    let mut random = support::Random(seed);
    let mut left = items.len();
    let mut missing = wanted.min(left);
    let mut draw = |_: &T| {
        let is_taken = random.next() % (left as u64) < missing as u64;
        left -= 1;
        missing -= usize::from(is_taken);
        is_taken
    };
    items.into_iter().filter(|item| draw(item)).collect()
}

/// Writes a student that a debug build trains in no time: 16 averages, a convolution, a layer.
fn write_student(path: &Path) {
    let mut random = support::Random(23);
    let mut weight = |name: &str, shape: &[usize]| -> TensorProto {
        let count = shape.iter().product();
        #[allow(clippy::cast_possible_truncation, reason = "a weight")]
        let values = (0..count).map(|_| (random.unit() - 0.5) as f32).collect();
        tensor_proto(name, &Array::new(shape.to_vec(), Values::F32(values)).unwrap())
    };
    let mut graph = support::ends("image", &[1, 28, 28]);
    graph.name = Some("student".into());
    graph.initializer =
        vec![weight("w1", &[4, 1, 3, 3]), weight("w2", &[16, 10]), weight("b2", &[10])];
    let pool = vec![ints("kernel_shape", &[7, 7]), ints("strides", &[7, 7])];
    graph.node = vec![
        support::node("AveragePool", &["image"], "small", pool),
        support::node("Conv", &["small", "w1"], "conv", vec![]),
        support::node("Relu", &["conv"], "map", vec![]),
        support::node("Flatten", &["map"], "flat", vec![]),
        support::node("MatMul", &["flat", "w2"], "product", vec![]),
        support::node("Add", &["product", "b2"], "logits", vec![]),
    ];
    write_graph(path, graph);
}
