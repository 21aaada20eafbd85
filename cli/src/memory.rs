//! What memory this process has used, as the operating system counts it.

/// Bytes of resident memory.
#[derive(Clone, Copy, Default, Debug)]
pub struct Memory {
    /// The most that was ever resident, mapped file pages included.
    pub peak: u64,
    /// Anonymous memory: what is not backed by a file, so cannot simply be dropped.
    pub anonymous: u64,
}

/// The highest values seen. The kernel keeps a peak of all resident memory but none of the
/// anonymous part, so that one is as good as the moments at which [`Peak::sample`] is called.
#[derive(Default, Debug)]
pub struct Peak(Option<Memory>);

impl Peak {
    /// Looks once. Costs one small read; a generation loop need not do it for every token.
    pub fn sample(&mut self) {
        if let Some(now) = now() {
            let seen = self.0.get_or_insert_default();
            seen.peak = seen.peak.max(now.peak);
            seen.anonymous = seen.anonymous.max(now.anonymous);
        }
    }

    /// The highest values so far; `None` where the system does not tell.
    pub fn get(&self) -> Option<Memory> {
        self.0
    }
}

#[cfg(target_os = "linux")]
fn now() -> Option<Memory> {
    parse(&std::fs::read_to_string("/proc/self/status").ok()?)
}

#[cfg(not(target_os = "linux"))]
fn now() -> Option<Memory> {
    None
}

/// Reads `VmHWM` and `RssAnon` from the text of `/proc/self/status`, where they stand in kB.
#[cfg(any(target_os = "linux", test))]
fn parse(status: &str) -> Option<Memory> {
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
    };
    Some(Memory { peak: field("VmHWM:")?, anonymous: field("RssAnon:")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_two_fields() {
        let status = "Name:\tpith\nVmHWM:\t    2048 kB\nVmRSS:\t 9 kB\nRssAnon:\t     512 kB\n";
        let memory = parse(status).unwrap();
        assert_eq!((memory.peak, memory.anonymous), (2 << 20, 512 << 10));
        assert!(parse("VmHWM: 1 kB\n").is_none());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_process_has_memory() {
        let mut peak = Peak::default();
        peak.sample();
        let memory = peak.get().unwrap();
        assert!(memory.peak >= memory.anonymous && memory.anonymous > 0);
    }
}
