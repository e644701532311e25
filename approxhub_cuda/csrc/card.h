// What the interface asks of each group of kernels: to be loaded onto a card, and to run.
#pragma once

#include <cuda_runtime.h>

#include "approxhub_cuda.h"

cudaError_t ready_lookup(const ah_card &card);
int32_t run_lookup(const ah_card &card, void *stream, const ah_lookup &work);

cudaError_t ready_product(const ah_card &card);
int32_t run_product(const ah_card &card, void *stream, const ah_product &work);

cudaError_t ready_real(const ah_card &card);
int32_t run_quantize(const ah_card &card, void *stream, const ah_quantize &work);
int32_t run_dequantize(const ah_card &card, void *stream, const ah_dequantize &work);
int32_t run_recode(const ah_card &card, void *stream, const ah_recode &work);
int32_t run_combine(const ah_card &card, void *stream, const ah_combine &work);
