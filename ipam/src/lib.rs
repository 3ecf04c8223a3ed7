//! Address pool of one subnet and its journal.
