-- List models, or data sets, newest first.
-- KEYS[1]  sorted set  all of them by time of creation
-- ARGV[1]  how many at most
-- ARGV[2]  the id after which to go on, or '' for the beginning
-- Returns  the ids, or false if ARGV[2] names none.
-- Invariant: read at one moment, so that none created or deleted meanwhile shifts the page.
local start = 0
if ARGV[2] ~= '' then
  local rank = redis.call('ZREVRANK', KEYS[1], ARGV[2])
  if not rank then
    return false
  end
  start = rank + 1
end
return redis.call('ZREVRANGE', KEYS[1], start, start + ARGV[1] - 1)
