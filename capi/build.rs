//! The shared library's own name, by which programs that were linked with it look for it.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let target = |key: &str| std::env::var(format!("CARGO_CFG_TARGET_{key}")).unwrap_or_default();
    match (target("VENDOR").as_str(), target("FAMILY").as_str()) {
        ("apple", _) => {
            println!("cargo:rustc-cdylib-link-arg=-Wl,-install_name,@rpath/libpith.1.dylib");
        }
        (_, "unix") => println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libpith.so.1"),
        _ => {}
    }
}
