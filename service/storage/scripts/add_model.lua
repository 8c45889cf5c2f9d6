-- Record a model unless it is there already.
-- KEYS[1]  string      the model's record
-- KEYS[2]  sorted set  all models by time of creation
-- ARGV[1]  the record, JSON
-- ARGV[2]  the time, in microseconds since 1970
-- ARGV[3]  the model's id
-- Returns  {1, the record} if it was added, {0, the record that was there} otherwise.
-- Invariant: an id stands in the set if and only if its record exists.
local existing = redis.call('GET', KEYS[1])
if existing then
  return {0, existing}
end
redis.call('SET', KEYS[1], ARGV[1])
redis.call('ZADD', KEYS[2], ARGV[2], ARGV[3])
return {1, ARGV[1]}
