//! Where the members of a kernel structure are, by the kernel's own type information (BTF: linux/btf.h,
//! Documentation/bpf/btf.rst). aya reads BTF too, but keeps what it finds to itself.

/// A member of a structure; members of its nameless parts count as its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Member {
    /// From the structure's beginning.
    pub(crate) bit_offset: u32,
    /// Bits of a bit field; 0: it is none.
    pub(crate) bits: u32,
}

/// Type information, checked as it is read: nothing in it is taken on trust.
pub(crate) struct Btf<'a> {
    strings: &'a [u8],
    /// Every type's bytes by number; 0 is `void`.
    types: Vec<&'a [u8]>,
}

const MAGIC: u16 = 0xeb9f;
/// Bytes in front of what a kind adds: name, info, size or type.
const COMMON: usize = 12;
/// Bytes of a member: name, type, offset.
const MEMBER: usize = 12;
/// How deep nameless parts are looked into.
const DEPTH: u32 = 8;

const INT: u32 = 1;
const ARRAY: u32 = 3;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const ENUM: u32 = 6;
const FUNC_PROTO: u32 = 13;
const VAR: u32 = 14;
const DATASEC: u32 = 15;
const DECL_TAG: u32 = 17;
const ENUM64: u32 = 19;

impl<'a> Btf<'a> {
    /// Finds the types' beginnings; `None`: it is no BTF of this byte order, or cut short.
    pub(crate) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let magic = u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?);
        let header = usize::try_from(word(bytes, 4)?).ok()?;
        let section = |at: usize| {
            let start = header.checked_add(usize::try_from(word(bytes, at)?).ok()?)?;
            bytes.get(start..start.checked_add(usize::try_from(word(bytes, at + 4)?).ok()?)?)
        };
        let (mut rest, strings) = (section(8)?, section(16)?);
        let mut types = vec![&rest[..0]];
        while !rest.is_empty() {
            let (one, others) = rest.split_at_checked(length(rest)?)?;
            types.push(one);
            rest = others;
        }
        (magic == MAGIC).then_some(Self { strings, types })
    }

    /// A member of the structure of that name.
    pub(crate) fn member(&self, structure: &str, member: &str) -> Option<Member> {
        let named = |one: &&&[u8]| kind(one) == Some(STRUCT) && self.name(one) == Some(structure.as_bytes());
        self.types.iter().find(named).and_then(|found| self.find(found, member, DEPTH))
    }

    fn find(&self, composite: &[u8], wanted: &str, depth: u32) -> Option<Member> {
        let bit_fields = word(composite, 4)? >> 31 != 0;
        let members = composite.get(COMMON..)?.chunks_exact(MEMBER);
        members.into_iter().find_map(|member| {
            let offset = word(member, 8)?;
            let (bits, bit_offset) = if bit_fields { (offset >> 24, offset & 0x00ff_ffff) } else { (0, offset) };
            match self.name(member)? {
                b"" => {
                    let part = self.types.get(usize::try_from(word(member, 4)?).ok()?)?;
                    let nameless = matches!(kind(part)?, STRUCT | UNION) && depth > 0;
                    let found = nameless.then(|| self.find(part, wanted, depth - 1))??;
                    Some(Member { bit_offset: bit_offset.checked_add(found.bit_offset)?, ..found })
                }
                name => (name == wanted.as_bytes()).then_some(Member { bit_offset, bits }),
            }
        })
    }

    /// The name of a type or member, which is the first thing in it.
    fn name(&self, bytes: &[u8]) -> Option<&'a [u8]> {
        let from = self.strings.get(usize::try_from(word(bytes, 0)?).ok()?..)?;
        from.split(|byte| *byte == 0).next()
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at.checked_add(4)?)?.try_into().ok().map(u32::from_ne_bytes)
}

fn kind(one: &[u8]) -> Option<u32> {
    Some(word(one, 4)? >> 24 & 0x1f)
}

/// Bytes of the type that `rest` begins with.
fn length(rest: &[u8]) -> Option<usize> {
    let entries = usize::try_from(word(rest, 4)? & 0xffff).ok()?;
    Some(
        COMMON
            + match kind(rest)? {
                INT | VAR | DECL_TAG => 4,
                ARRAY => 12,
                STRUCT | UNION | DATASEC | ENUM64 => 12 * entries,
                ENUM | FUNC_PROTO => 8 * entries,
                _ => 0,
            },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `struct s { union { struct { u8 a; u8 b:2 at bit 13; }; }; T named { .. } at 64; }`, an int before it.
    fn sample() -> Vec<u8> {
        let strings = b"\0s\0a\0b\0named\0";
        let info = |kind: u32, flag: u32, entries: u32| flag << 31 | kind << 24 | entries;
        let types: Vec<u32> = [
            vec![0, info(INT, 0, 0), 1, 0],
            vec![1, info(STRUCT, 0, 2), 16, 0, 3, 32, 7, 4, 64],
            vec![0, info(UNION, 0, 1), 4, 0, 4, 0],
            vec![0, info(STRUCT, 1, 2), 4, 3, 1, 0, 5, 1, 2 << 24 | 13],
        ]
        .concat();
        let types: Vec<u8> = types.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let mut bytes = MAGIC.to_ne_bytes().to_vec();
        bytes.extend([1, 0]);
        let lengths = [24, 0, types.len(), types.len(), strings.len()];
        bytes.extend(lengths.iter().flat_map(|length| u32::try_from(*length).unwrap().to_ne_bytes()));
        [&bytes[..], &types, strings].concat()
    }

    #[test]
    fn members_of_nameless_parts_are_found_where_they_are() {
        let bytes = sample();
        let btf = Btf::parse(&bytes).unwrap();
        assert_eq!(btf.member("s", "a"), Some(Member { bit_offset: 32, bits: 0 }));
        assert_eq!(btf.member("s", "b"), Some(Member { bit_offset: 45, bits: 2 }));
        assert_eq!(btf.member("s", "named"), Some(Member { bit_offset: 64, bits: 0 }));
        assert_eq!((btf.member("s", "c"), btf.member("t", "a")), (None, None));
    }

    #[test]
    fn what_is_cut_short_or_something_else_is_refused() {
        let bytes = sample();
        for length in 0..bytes.len() {
            assert!(Btf::parse(&bytes[..length]).is_none(), "{length} bytes");
        }
        for at in 0..bytes.len() {
            let mut broken = bytes.clone();
            broken[at] ^= 0xff;
            // Whatever it says: no panic and no endless search.
            std::hint::black_box(Btf::parse(&broken).map(|btf| btf.member("s", "b")));
        }
    }
}
