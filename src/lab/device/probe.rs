//! What can be learned of the machine without touching a driver.

use std::path::Path;

/// The message for a kind that was left out at build time.
#[cfg_attr(all(feature = "vulkan", feature = "cuda"), allow(dead_code, reason = "nothing was left out"))]
pub(super) fn not_built(feature: &str) -> String {
    format!("this binary was built without the feature '{feature}' (cargo build --release --features {feature})")
}

/// The processor's model, or its architecture where the kernel does not tell.
pub(super) fn processor() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    match model {
        Some((_, model)) => model.trim().to_owned(),
        None => std::env::consts::ARCH.to_owned(),
    }
}

/// Bytes of main memory.
pub(super) fn memory_bytes() -> Option<u64> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// The widest vector instructions that burn's CPU kernels can use here.
pub(super) fn vector_instructions() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    {
        if std::arch::is_x86_feature_detected!("avx512f") {
            return "AVX-512";
        }
        if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
            return "AVX2 and FMA";
        }
        "SSE2"
    }
    #[cfg(target_arch = "aarch64")]
    {
        "NEON"
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        "scalar"
    }
}

/// Whether the dynamic loader would find this library: in `LD_LIBRARY_PATH`, its cache or its own folders.
///
/// Asks no loader, so that nothing is run; good for the wording of an error, not for a decision.
#[cfg_attr(not(any(feature = "vulkan", feature = "cuda")), allow(dead_code, reason = "for drivers alone"))]
pub(super) fn loader_finds(library: &str) -> bool {
    let path = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&path).any(|folder| folder.join(library).exists());
    let in_cache = || {
        let mut name = library.as_bytes().to_vec();
        name.push(0);
        std::fs::read("/etc/ld.so.cache").is_ok_and(|cache| cache.windows(name.len()).any(|part| part == name))
    };
    let in_folders =
        || ["/lib", "/usr/lib", "/lib64", "/usr/lib64"].iter().any(|folder| Path::new(folder).join(library).exists());
    in_path || in_cache() || in_folders()
}
