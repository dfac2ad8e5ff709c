//! The memory of a running process, as root sees it.

use std::{fs, os::unix::fs::FileExt as _};

/// Everything that a process can write to: its heaps, stacks and data.
#[derive(Debug)]
pub(crate) struct Image {
    /// Runs of pages in which something is, each with the mapping that it is of.
    pub(crate) runs: Vec<(String, Vec<u8>)>,
}

const PAGE: usize = 4096;

impl Image {
    /// Takes it while the process runs on.
    pub(crate) fn of(process: u32) -> Self {
        let maps = fs::read_to_string(format!("/proc/{process}/maps"));
        let memory = fs::File::open(format!("/proc/{process}/mem"));
        let closed = "root: the broker closes its memory to its own user too";
        let (maps, memory) = (maps.expect(closed), memory.expect(closed));
        let mut runs = Vec::new();
        for line in maps.lines() {
            let mut words = line.splitn(6, ' ');
            let mut word = || words.next().expect("six columns");
            let (range, rights) = (word(), word());
            if !rights.starts_with("rw") {
                continue;
            }
            let address = |text| u64::from_str_radix(text, 16).expect("an address");
            let (begin, end) = range.split_once('-').expect("a range");
            let (begin, end) = (address(begin), address(end));
            let mut content = vec![0; usize::try_from(end - begin).expect("it fits")];
            // A stack or heap of a thread that has ended meanwhile is gone with what was in it.
            if memory.read_exact_at(&mut content, begin).is_ok() {
                runs.extend(used(&content).map(|run| (line.to_owned(), run)));
            }
        }
        Self { runs }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.runs.iter().map(|(_, content)| content.len()).sum()
    }
}

/// Most of what is mapped was never written to.
fn used(content: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    let pages: Vec<_> = content.chunks(PAGE).collect();
    let in_use = |page: &&[u8]| **page != [0; PAGE][..page.len()];
    let runs = pages.chunk_by(move |one, next| in_use(one) == in_use(next));
    let runs = runs.filter(move |run| in_use(&run[0])).map(<[_]>::concat);
    runs.collect::<Vec<_>>().into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_that_is_kept_is_found_in_the_image_even_across_pages() {
        let mut kept = vec![0; 10 * PAGE];
        let secret = b"a canary that somebody keeps";
        kept[3 * PAGE - 5..][..secret.len()].copy_from_slice(secret);
        let image = Image::of(std::process::id());
        let found = |(_, content): &(String, Vec<u8>)| {
            content.windows(secret.len()).any(|window| window == secret)
        };
        assert!(image.runs.iter().any(found));
        // It was there all the time.
        std::hint::black_box(&kept);
    }
}
