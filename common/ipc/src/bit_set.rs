//! Small sets of named bits: one macro instead of a dependency.

/// Declares a set type over an unsigned integer with a constant per bit.
macro_rules! bit_set {
    (
        $(#[$meta:meta])*
        pub struct $name:ident: $repr:ty {
            $( $(#[$bit_meta:meta])* const $bit:ident = $value:expr; )+
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
        pub struct $name($repr);

        impl $name {
            /// No bit.
            pub const NONE: $name = $name(0);
            /// Every bit that has a name.
            pub const ALL: $name = $name(0 $(| $value)+);
            $( $(#[$bit_meta])* pub const $bit: $name = $name($value); )+

            /// The set as an integer.
            pub const fn bits(self) -> $repr {
                self.0
            }

            /// The set that `bits` stand for; bits without a name are dropped.
            pub const fn from_bits(bits: $repr) -> $name {
                $name(bits & $name::ALL.0)
            }

            /// The bits that are set, each as a set of its own.
            pub fn iter(self) -> impl Iterator<Item = $name> {
                [$( $name::$bit ),+].into_iter().filter(move |bit| self.contains(*bit))
            }

            /// Those in either set; as `|`, but usable in constants.
            #[must_use]
            pub const fn union(self, other: $name) -> $name {
                $name(self.0 | other.0)
            }

            /// Those of this set that are not in `other`.
            #[must_use]
            pub const fn without(self, other: $name) -> $name {
                $name(self.0 & !other.0)
            }

            /// Whether all of `other` are in this set.
            pub const fn contains(self, other: $name) -> bool {
                self.0 & other.0 == other.0
            }

            /// Whether any of `other` is in this set.
            pub const fn intersects(self, other: $name) -> bool {
                self.0 & other.0 != 0
            }

            /// Whether there is no bit.
            pub const fn is_empty(self) -> bool {
                self.0 == 0
            }
        }

        impl std::ops::BitOr for $name {
            type Output = $name;
            fn bitor(self, other: $name) -> $name {
                self.union(other)
            }
        }

        impl std::ops::BitOrAssign for $name {
            fn bitor_assign(&mut self, other: $name) {
                self.0 |= other.0;
            }
        }

        impl std::ops::BitAnd for $name {
            type Output = $name;
            fn bitand(self, other: $name) -> $name {
                $name(self.0 & other.0)
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                let names = [$( ($name::$bit, stringify!($bit)) ),+];
                let mut first = true;
                for (_, name) in names.iter().filter(|(bit, _)| self.contains(*bit)) {
                    f.write_str(if first { "" } else { "|" })?;
                    f.write_str(name)?;
                    first = false;
                }
                if first { f.write_str("NONE") } else { Ok(()) }
            }
        }
    };
}

pub(crate) use bit_set;
