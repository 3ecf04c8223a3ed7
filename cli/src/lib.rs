//! weft, the command line people use.
