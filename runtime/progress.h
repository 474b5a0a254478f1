// What goes on while a thread waits for other ranks or for a GPU: a function that is called in all its waits.
#pragma once
#include <functional>

namespace wuneng::progress {

// Of the calling thread; `advance` never blocks. Returns a number for remove(), which `advance` must not
// call.
int add(std::function<void()> advance);
void remove(int number);
bool none();
void make();  // calls each once

}  // namespace wuneng::progress
