//! Finding and loading ONNX Runtime's library.

use super::{Level, elf};
use crate::error::{Error, Result};
use crate::monitor::Monitor;
use ort::environment::Environment;
use ort::logging::LogLevel;
use std::ffi::CStr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// The environment variable that keeps ONNX Runtime's telemetry off. The API's own switch comes too
/// late: creating the environment has already written a device's identity below the user's home.
const NO_TELEMETRY: &str = "ORT_DISABLE_TELEMETRY";

/// Turns off ONNX Runtime's telemetry, in this process and those that it starts.
///
/// # Safety
/// No other thread may be running that reads or writes the environment.
pub unsafe fn forbid_telemetry() {
    // SAFETY: the caller promises what it asks for
    unsafe { std::env::set_var(NO_TELEMETRY, "1") };
}

/// The environment variable that names the library.
const VARIABLE: &str = "ORT_DYLIB_PATH";

/// The loaded library, one a process.
#[derive(Debug, Clone)]
pub struct Runtime {
    /// Its version (`1.32.0`).
    pub version: String,
    /// Its file.
    pub path: PathBuf,
    /// How far it may change a graph.
    pub(super) level: Level,
    pub(super) environment: Environment,
}

/// Versions with a known wrong result, and what they do.
const FAULTS: [(&str, &str); 1] =
    [("1.31.1", "takes a padding of zeros before a maximum pooling for one of minus infinity")];

/// The known wrong result of a version.
fn fault(version: &str) -> Option<&'static str> {
    FAULTS.iter().find(|(faulty, _)| *faulty == version).map(|(_, what)| *what)
}

/// The oldest release, 1.this, whose API this program speaks.
const OLDEST: u32 = ort::sys::ORT_API_VERSION;

/// Major and minor number of a version.
fn release(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.split('.').map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// A failed search, kept so that later calls return the same error.
#[derive(Clone)]
struct Failure {
    message: String,
    hint: Option<String>,
}

impl Runtime {
    /// Loads the library: from `path` if given, else `ORT_DYLIB_PATH`, else the folder of the
    /// binary, else the Python package `onnxruntime` installed beside it, else the system's
    /// folders. A path that is set and broken is an error. Size and file type are checked before
    /// the loader sees the file. Later calls return the first one's result.
    ///
    /// # Errors
    /// Says which places were tried and what to do (`make build`).
    pub fn load(path: Option<&Path>) -> Result<Self> {
        static LOADED: Mutex<Option<Result<Runtime, Failure>>> = Mutex::new(None);
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        let result = loaded.get_or_insert_with(|| {
            find(path)
                .and_then(|path| open(&path))
                .map_err(|e| Failure { message: e.chain(), hint: e.find_hint().map(str::to_owned) })
        });
        result.clone().map_err(|failure| {
            let error = Error::input(failure.message);
            failure.hint.into_iter().fold(error, Error::hint)
        })
    }
}

impl Runtime {
    /// [`load`](Self::load), with a warning where the version is known to compute something
    /// wrongly.
    ///
    /// # Errors
    /// When there is no library, or none that fits.
    pub fn load_for(path: Option<&Path>, monitor: &dyn Monitor) -> Result<Self> {
        let runtime = Self::load(path)?;
        if let Some(fault) = runtime.fault() {
            monitor.warn(&fault);
        }
        Ok(runtime)
    }

    /// The same library with graph optimizations limited to a level.
    pub(crate) fn limited_to(&self, level: Level) -> Self {
        Self { level, ..self.clone() }
    }

    /// What decides its values, as recorded in manifests: its version, and the level of
    /// optimizations where that is limited (`1.31.1 (optimizations: basic)`).
    #[must_use]
    pub fn describe(&self) -> String {
        match self.level {
            Level::All => self.version.clone(),
            level => format!("{} (optimizations: {level})", self.version),
        }
    }

    /// One line for the user where this version has a known wrong result.
    pub(crate) fn fault(&self) -> Option<String> {
        let what = fault(&self.version)?;
        Some(format!(
            "ONNX Runtime {} {what}: take another (`make build` fetches one)",
            self.version
        ))
    }
}

/// The file to load.
fn find(path: Option<&Path>) -> Result<PathBuf> {
    if let Some(path) = path {
        return named(path, "--onnxruntime");
    }
    if let Some(path) = std::env::var_os(VARIABLE).filter(|value| !value.is_empty()) {
        return named(Path::new(&path), VARIABLE);
    }
    let places = places();
    places.iter().find(|place| place.is_file()).cloned().ok_or_else(|| {
        let beside = places.first().map_or_else(String::new, |p| format!("{}, ", p.display()));
        Error::input(format!(
            "ONNX Runtime's library: expected {}, looked at {beside}Python's packages there, and \
             the system's library folders",
            file_name()
        ))
        .hint(format!(
            "`pip install onnxruntime` beside a pip-installed nst-cache, or `make build`, or name \
             it with --onnxruntime FILE or {VARIABLE}"
        ))
    })
}

/// A path that the user set: this one or an error, never another one silently.
fn named(path: &Path, origin: &str) -> Result<PathBuf> {
    // the loader would search for a bare name
    let path = std::path::absolute(path)
        .map_err(|e| Error::input(format!("{origin}: {}", path.display())).because(e))?;
    if path.is_file() {
        return Ok(path);
    }
    Err(Error::input(format!(
        "{origin}: {}: expected ONNX Runtime's library, found no file",
        path.display()
    )))
}

fn file_name() -> String {
    format!("{}onnxruntime{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX)
}

/// Where the library is searched for when no path is set: the binary's folder, Python's packages
/// beside it, then the system's folders.
fn places() -> Vec<PathBuf> {
    let beside = std::env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_path_buf));
    let packaged = beside.as_deref().and_then(Path::parent).map(packaged).unwrap_or_default();
    let variable = if cfg!(target_os = "macos") { "DYLD_LIBRARY_PATH" } else { "LD_LIBRARY_PATH" };
    let listed = std::env::var_os(variable)
        .map(|list| std::env::split_paths(&list).collect::<Vec<_>>())
        .unwrap_or_default();
    let machine = format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH);
    let system = ["/usr/local/lib", "/usr/lib", &machine, "/usr/lib64", "/opt/homebrew/lib"]
        .map(PathBuf::from);
    // an empty entry of the list means the working folder, from which no library is loaded
    let in_folder = |folder: PathBuf| folder.join(file_name());
    let listed = listed.into_iter().filter(|folder| folder.is_absolute());
    let beside = beside.into_iter().map(in_folder);
    beside.chain(packaged).chain(listed.chain(system).map(in_folder)).collect()
}

/// The library in the Python package `onnxruntime` of an environment: as
/// `lib/python3.12/site-packages/onnxruntime/capi/libonnxruntime.so.1.32.0`. Of several versions of
/// Python, those into which this program's own package is installed come first, then newer ones.
fn packaged(environment: &Path) -> Vec<PathBuf> {
    let entries = |folder: &Path| {
        std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path())
    };
    let minor = |folder: &Path| {
        let name = folder.file_name()?.to_str()?;
        name.strip_prefix("python3.")?.parse::<u32>().ok()
    };
    let libraries = ["lib", "lib64"].map(|name| environment.join(name));
    let mut versions: Vec<(u32, PathBuf)> = libraries
        .iter()
        .flat_map(|folder| entries(folder))
        .filter_map(|folder| Some((minor(&folder)?, folder)))
        .collect();
    versions.sort_by(|a, b| b.cmp(a));
    let mut packages: Vec<PathBuf> = versions
        .iter()
        .flat_map(|(_, folder)| ["site-packages", "dist-packages"].map(|name| folder.join(name)))
        // Windows has one, and `pip install --target` puts packages beside `bin`
        .chain([environment.join("Lib/site-packages"), environment.to_owned()])
        .collect();
    packages.sort_by_key(|folder| !folder.join(env!("CARGO_CRATE_NAME")).is_dir());
    let is_library = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        // libonnxruntime.so.1.32.0, libonnxruntime.1.32.0.dylib, onnxruntime.dll
        let rest = name.strip_prefix(std::env::consts::DLL_PREFIX);
        rest.and_then(|rest| rest.strip_prefix("onnxruntime."))
            .is_some_and(|rest| rest.split('.').any(|part| part == std::env::consts::DLL_EXTENSION))
    };
    packages
        .iter()
        .flat_map(|folder| {
            let mut found: Vec<PathBuf> =
                entries(&folder.join("onnxruntime/capi")).filter(is_library).collect();
            found.sort_by(|a, b| b.cmp(a));
            found
        })
        .collect()
}

/// What to do about a library that does not fit.
fn advice(path: &Path) -> String {
    if path.components().any(|part| part.as_os_str() == "capi") {
        format!("pip install --upgrade 'onnxruntime>=1.{OLDEST}'")
    } else {
        "fetch it again with `make build`".to_owned()
    }
}

fn open(path: &Path) -> Result<Runtime> {
    let advice = advice(path);
    elf::check(path).map_err(|e| e.hint(advice.as_str()))?;
    let version = version(path).map_err(|e| e.hint(advice.as_str()))?;
    if release(&version).is_some_and(|release| release < (1, OLDEST)) {
        return Err(Error::input(format!(
            "ONNX Runtime {version} ({}): expected 1.{OLDEST} or newer",
            path.display()
        ))
        .hint(advice));
    }
    // `init_from` refuses a missing or old library with an error; `init` would panic
    let builder = ort::init_from(path).map_err(|e| {
        Error::input(format!("{}: not a usable ONNX Runtime", path.display()))
            .because(e)
            .hint(advice)
    })?;
    let environment = builder
        .with_name("nst-cache")
        .with_telemetry(false)
        .with_logger(Arc::new(|_level, category, _id, location, message| {
            tracing::debug!(category, location, "onnxruntime: {message}");
        }))
        .build()
        .map_err(|e| Error::input("ONNX Runtime cannot be started").because(e))?;
    // formatting every verbose message costs time even if none is shown
    environment.set_log_level(if tracing::enabled!(tracing::Level::DEBUG) {
        LogLevel::Info
    } else {
        LogLevel::Error
    });
    Ok(Runtime { version, path: path.to_owned(), level: Level::All, environment })
}

/// The library's own version, which `ort` does not expose.
fn version(path: &Path) -> Result<String> {
    type GetApiBase = unsafe extern "C" fn() -> *const ort::sys::OrtApiBase;
    let unusable = || Error::input(format!("{}: not a usable ONNX Runtime", path.display()));
    // SAFETY: loading runs the library's initializers, which is what `ort` does next; the symbol
    // has the type that ONNX Runtime's C header declares, and the text that it gives is a constant
    // of the library, which stays loaded, so that its initializers run once.
    let text = unsafe {
        let library = libloading::Library::new(path).map_err(|e| unusable().because(e))?;
        let library = std::mem::ManuallyDrop::new(library);
        let get = library.get::<GetApiBase>(b"OrtGetApiBase").map_err(|e| unusable().because(e))?;
        let base = get().as_ref().ok_or_else(unusable)?;
        CStr::from_ptr((base.GetVersionString)()).to_owned()
    };
    text.into_string().map_err(|e| unusable().because(e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_with_a_fault_are_known() {
        assert!(fault("1.31.1").is_some_and(|what| what.contains("padding")));
        assert!(fault("1.32.0").is_none() && fault("1.31.10").is_none());
    }

    #[test]
    fn the_library_of_a_python_package_beside_the_program_is_found() {
        let environment = tempfile::tempdir().unwrap();
        let file = match std::env::consts::OS {
            "macos" => "libonnxruntime.1.32.0.dylib",
            "windows" => "onnxruntime.dll",
            _ => "libonnxruntime.so.1.32.0",
        };
        let package = |python: &str| {
            let packages = environment.path().join(format!("lib/{python}/site-packages"));
            let capi = packages.join("onnxruntime/capi");
            std::fs::create_dir_all(&capi).unwrap();
            for name in [file, "libonnxruntime_providers_shared.so", "onnxruntime_pybind.so"] {
                std::fs::write(capi.join(name), "").unwrap();
            }
            (packages, capi.join(file))
        };
        let (own, first) = package("python3.9");
        let [(_, second), (_, third)] = ["python3.10", "python3.12"].map(package);
        assert_eq!(packaged(environment.path()), [&third, &second, &first].map(Clone::clone));
        std::fs::create_dir(own.join("nst_cache")).unwrap();
        assert_eq!(packaged(environment.path()), [&first, &third, &second].map(Clone::clone));
        assert!(packaged(&environment.path().join("none")).is_empty());
        assert!(advice(&first).starts_with("pip install") && advice(&own).contains("make"));
    }

    #[test]
    fn releases_are_compared_by_number() {
        assert_eq!(release("1.9.1"), Some((1, 9)));
        assert!(release("1.9.1") < release("1.24.0") && release("1.100") > release("1.24"));
        assert_eq!(release("nonsense"), None);
    }

    #[test]
    fn a_path_that_is_set_is_used_or_an_error() {
        let error = find(Some(Path::new("no/such/libonnxruntime.so"))).unwrap_err();
        assert!(error.to_string().starts_with("--onnxruntime: /"), "{error}");
    }

    #[test]
    fn the_working_folder_is_no_place_for_libraries() {
        assert!(places().iter().all(|place| place.is_absolute()));
        assert!(!places().is_empty());
    }
}
