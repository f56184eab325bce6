// What the shim does when CRIU opens a file; see open_file.cc.
#pragma once

// In place of smaps below the process's folder in /proc; -1: let the kernel answer.
__attribute__((visibility("hidden"))) int open_smaps(int directory);
