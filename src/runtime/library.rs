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

/// A failed search, kept so that later calls return the same error.
#[derive(Clone)]
struct Failure {
    message: String,
    hint: Option<String>,
}

impl Runtime {
    /// Loads the library: from `path` if given, else `ORT_DYLIB_PATH`, else the folder of the
    /// binary, else the system's folders. A path that is set and broken is an error. Size and file
    /// type are checked before the loader sees the file. Later calls return the first one's result.
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
        let beside = places.first().map_or_else(String::new, |p| format!("{} and ", p.display()));
        Error::input(format!(
            "ONNX Runtime's library: expected {}, looked at {beside}the system's library folders",
            file_name()
        ))
        .hint(format!(
            "run `make build`, which fetches it, or name it with --onnxruntime FILE or {VARIABLE}"
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

/// Where the library is searched for when no path is set: the binary's folder, then the system's
/// folders.
fn places() -> Vec<PathBuf> {
    let beside = std::env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_path_buf));
    let variable = if cfg!(target_os = "macos") { "DYLD_LIBRARY_PATH" } else { "LD_LIBRARY_PATH" };
    let listed = std::env::var_os(variable)
        .map(|list| std::env::split_paths(&list).collect::<Vec<_>>())
        .unwrap_or_default();
    let machine = format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH);
    let system = ["/usr/local/lib", "/usr/lib", &machine, "/usr/lib64", "/opt/homebrew/lib"]
        .map(PathBuf::from);
    // an empty entry of the list means the working folder, from which no library is loaded
    let folders = beside
        .into_iter()
        .chain(listed.into_iter().filter(|folder| folder.is_absolute()))
        .chain(system);
    folders.map(|folder| folder.join(file_name())).collect()
}

fn open(path: &Path) -> Result<Runtime> {
    let advice = "fetch it again with `make build`";
    elf::check(path).map_err(|e| e.hint(advice))?;
    // `init_from` refuses a missing or old library with an error; `init` would panic
    let builder = ort::init_from(path).map_err(|e| {
        Error::input(format!("{}: not a usable ONNX Runtime", path.display()))
            .because(e)
            .hint(advice)
    })?;
    let version = version(path)?;
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
    Ok(Runtime { version, level: Level::All, environment })
}

/// The library's own version, which `ort` does not expose.
fn version(path: &Path) -> Result<String> {
    type GetApiBase = unsafe extern "C" fn() -> *const ort::sys::OrtApiBase;
    let unusable = || Error::input(format!("{}: not a usable ONNX Runtime", path.display()));
    // SAFETY: the same library was loaded a moment ago by `ort` and stays loaded, so that no
    // initializer runs here; the symbol has the type that ONNX Runtime's C header declares, and the
    // text that it gives is a constant of the library.
    let text = unsafe {
        let library = libloading::Library::new(path).map_err(|e| unusable().because(e))?;
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
