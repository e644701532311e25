// What the interface asks of each group of kernels: to be loaded onto a card, and to run.
#pragma once

#include <cuda_runtime.h>

#include "approxhub_cuda.h"

cudaError_t ready_lookup(const ah_card &card);
int32_t run_lookup(const ah_card &card, void *stream, const ah_lookup &work);

cudaError_t ready_product(const ah_card &card);
int32_t run_product(const ah_card &card, void *stream, const ah_product &work);
