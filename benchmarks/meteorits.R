# EM of the R package meteorits from given starts, until the log-likelihood reaches a target.
# Rscript meteorits.R FOLDER: reads data-N.csv (x, y) and start-N.csv (one column of numbers), writes done.csv.
suppressPackageStartupMessages(library(meteorits))
folder <- commandArgs(TRUE)[1]
names <- list.files(folder, pattern = "^data-.*csv$")
rows <- NULL
for (number in seq_along(names) - 1) {
  data <- as.matrix(read.csv(file.path(folder, sprintf("data-%d.csv", number)), header = FALSE))
  start <- scan(file.path(folder, sprintf("start-%d.csv", number)), quiet = TRUE)
  K <- start[1]; target <- start[2]; most <- start[3]; rest <- start[-(1:3)]
  take <- function(count) { found <- rest[seq_len(count)]; rest <<- rest[-seq_len(count)]; found }
  param <- meteorits:::ParamNMoE(X = data[, 1], Y = data[, 2], K = K, p = 1, q = 1)
  param$alpha <- matrix(take(2 * (K - 1)), 2, K - 1)
  param$beta <- matrix(take(2 * K), 2, K)
  param$sigma2 <- matrix(take(K), 1, K)
  began <- proc.time()
  stat <- meteorits:::StatNMoE(paramNMoE = param)
  steps <- 0
  repeat {
    stat$EStep(param)
    reached <- sum(stat$log_sum_piik_fik)
    if (reached >= target || steps >= most) break
    param$MStep(stat, FALSE)
    steps <- steps + 1
  }
  spent <- proc.time() - began
  rows <- rbind(rows, c(spent[1] + spent[2], steps, reached))
}
write.table(rows, file.path(folder, "done.csv"), sep = ",", row.names = FALSE, col.names = FALSE)
