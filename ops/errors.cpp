// What went wrong in the last operator of this thread that returned undefined tensors; read by native.py.

#include "errors.h"

GANFORMER_EXPORT const char* ganformer_take_error() {
  return ganformer::last_error().take();
}
