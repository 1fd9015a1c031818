//! Records of counters that tell the name, the kind and the meaning of each.

/// Makes a record of counters, each a line of documentation, a name and a kind.
macro_rules! counters {
    ($(#[$about:meta])+ pub struct $Counters:ident {
        $($(#[doc = $doc:literal])+ $name:ident: $kind:ident,)+
    }) => {
        $(#[$about])+
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $Counters {
            $($(#[doc = $doc])+ pub $name: u64,)+
        }

        impl $Counters {
            /// Every counter with its name, its kind and what it means.
            pub fn each(
                &self,
                mut visit: impl FnMut(&'static str, $crate::CounterKind, &'static str, u64),
            ) {
                $(visit(
                    stringify!($name),
                    $crate::CounterKind::$kind,
                    concat!($($doc),+),
                    self.$name,
                );)+
            }

            /// Adds another core's counters to these.
            pub fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)+
            }
        }
    };
}

pub(crate) use counters;

/// Whether a counter only grows, or tells a present amount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CounterKind {
    /// Only grows.
    Total,
    /// A present amount.
    Gauge,
}
