//! Which layout and which programs: those of this build, unless a test wants another version.

use crate::object::OBJECT;
use std::borrow::Cow;

/// A version of the data plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version {
    /// Folder and form of the maps ([`weft_abi::LAYOUT_VERSION`]).
    pub layout: u32,
    /// 0: the programs of this build. Any other number makes other programs of them for tests: other
    /// instructions, the same meaning.
    pub programs: u32,
}

impl Version {
    /// This build's. A debug build is another version where `WEFT_TEST_LAYOUT` and `WEFT_TEST_PROGRAMS` say so.
    #[must_use]
    pub fn of_this_build() -> Self {
        Self {
            layout: by_test("WEFT_TEST_LAYOUT").unwrap_or(weft_abi::LAYOUT_VERSION),
            programs: by_test("WEFT_TEST_PROGRAMS").unwrap_or(0),
        }
    }

    /// The object. Its rate limit counts in seconds of 1,000,000,000 ns, a number that stands in every program
    /// that refuses packets; in a variant they are some nanoseconds longer.
    pub(crate) fn object(self) -> Cow<'static, [u8]> {
        const SECOND: u32 = 1_000_000_000;
        if self.programs == 0 {
            return Cow::Borrowed(OBJECT);
        }
        let mut object = OBJECT.to_vec();
        let variant = (SECOND + self.programs).to_le_bytes();
        for at in 0..object.len().saturating_sub(3) {
            if object[at..at + 4] == SECOND.to_le_bytes() {
                object[at..at + 4].copy_from_slice(&variant);
            }
        }
        Cow::Owned(object)
    }
}

fn by_test(variable: &str) -> Option<u32> {
    if !cfg!(debug_assertions) {
        return None;
    }
    std::env::var(variable).ok()?.parse().ok()
}
