//! Measurements as a CSV file, one line for each thing measured.

use std::path::{Path, PathBuf};
use std::{fs, io};

/// Where the project keeps them.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../benches/results")
}

/// Writes lines into a file of lines: those that measure the same thing as an older line, which is
/// what the first `n_key` fields say, take its place; others are added at the end.
///
/// # Errors
/// The file can't be read or written, or has another header.
pub fn merge(path: &Path, header: &str, n_key: usize, lines: &[String]) -> io::Result<()> {
    let old = match fs::read_to_string(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => String::new(),
        read => read?,
    };
    let mut merged: Vec<&str> = old.lines().collect();
    if merged.first().is_some_and(|first| *first != header) {
        let fault = format!("{}: another header, wanted {header}", path.display());
        return Err(io::Error::new(io::ErrorKind::InvalidData, fault));
    }
    if merged.is_empty() {
        merged.push(header);
    }
    let key = |line: &str| line.split(',').take(n_key).map(str::to_string).collect::<Vec<_>>();
    for line in lines {
        match merged.iter_mut().skip(1).find(|old| key(old) == key(line)) {
            Some(old) => *old = line,
            None => merged.push(line),
        }
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, merged.join("\n") + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_same_thing_are_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/results.csv");
        let lines = |lines: &[&str]| lines.iter().map(|l| l.to_string()).collect::<Vec<_>>();
        merge(&path, "a,b,c", 2, &lines(&["1,1,x", "1,2,y"])).unwrap();
        merge(&path, "a,b,c", 2, &lines(&["1,2,z", "2,2,v"])).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "a,b,c\n1,1,x\n1,2,z\n2,2,v\n");
        assert!(merge(&path, "a,b", 2, &[]).is_err());
    }
}
